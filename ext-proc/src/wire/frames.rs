//! gRPC's messages in the data of an HTTP body, both ways, without a copy of what is long.
//!
//! A message may be spread over many frames of HTTP/2, and a prompt over hundreds. tonic gathers them in a buffer that grows, and writes
//! what goes back into another: at 400 kB that was most of what a server costs that does nothing. Here a message is decoded from where
//! its frames lie ([`Pieces`]), and one is sent as its head followed by the slices of a body, in one frame and so in one call of the kernel. What must always hold: a message is told
//! once it is whole; one that is longer than the bound, compressed, cut off or malformed ends the stream with a status that says so;
//! every stream of replies ends with one status. The format is that of gRPC over HTTP/2 (`PROTOCOL-HTTP2.md` of grpc): a byte that says
//! whether the message is compressed, four of its length, the message.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use tokio_stream::Stream;
use tonic::Status;

use crate::wire::body::Body;

/// Bytes before each message.
const PREFIX: usize = 5;
/// A head is rarely longer.
const HEAD: usize = 1024;

/// Messages that arrive.
pub struct Messages<M> {
    body: tonic::body::Body,
    received: Pieces,
    /// Length of the message that is coming, once it is known.
    awaited: Option<usize>,
    bound: usize,
    ended: bool,
    message: PhantomData<fn() -> M>,
}

/// Bytes in the pieces that they came in: of a message that arrives, or of one that is sent.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
}

/// A message that can be sent.
pub trait Outgoing {
    /// Writes its head, and returns the bytes that follow it.
    fn write(self, head: &mut BytesMut) -> Body;
}

/// Replies as the body of a response.
#[derive(Debug)]
pub struct Sent<S> {
    replies: S,
    head: BytesMut,
    ended: bool,
}

// === impl Messages ===

impl<M: Message + Default> Messages<M> {
    /// The messages of a request's body, of which none may be longer than the bound.
    pub fn new<B>(body: B, bound: usize) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self {
            body: tonic::body::Body::new(body),
            received: Pieces::default(),
            awaited: None,
            bound,
            ended: false,
            message: PhantomData,
        }
    }

    /// The next message, if all of it is there.
    fn take(&mut self) -> Result<Option<M>, Status> {
        let len = match self.awaited {
            Some(len) => len,
            None if self.received.remaining() < PREFIX => return Ok(None),
            None => self.begin()?,
        };
        self.awaited = Some(len);
        if self.received.remaining() < len {
            return Ok(None);
        }
        self.awaited = None;
        let message = M::decode((&mut self.received).take(len));
        message
            .map(Some)
            .map_err(|error| Status::internal(format!("not the message that was expected: {error}")))
    }

    /// Reads what stands before a message.
    fn begin(&mut self) -> Result<usize, Status> {
        if self.received.get_u8() != 0 {
            return Err(Status::unimplemented("compressed messages are not understood"));
        }
        let len = self.received.get_u32() as usize;
        if len > self.bound {
            let bound = self.bound;
            return Err(Status::resource_exhausted(format!(
                "a message of {len} bytes is larger than {bound} bytes"
            )));
        }
        Ok(len)
    }

    fn poll(&mut self, poller: &mut Context<'_>) -> Poll<Option<Result<M, Status>>> {
        loop {
            if let Some(message) = self.take().transpose() {
                return Poll::Ready(Some(message));
            }
            let data = match ready!(Pin::new(&mut self.body).poll_frame(poller)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if self.awaited.is_some() || self.received.has_remaining() => {
                    return Poll::Ready(Some(Err(Status::internal("the stream ends within a message"))));
                }
                None => return Poll::Ready(None),
            };
            self.received.push(data);
        }
    }
}

impl<M: Message + Default> Stream for Messages<M> {
    type Item = Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, poller: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.poll(poller));
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

// === impl Pieces ===

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(bytes);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        let pieces = self.pieces.iter().map(|piece| IoSlice::new(piece));
        let filled = parts.iter_mut().zip(pieces).map(|(part, piece)| *part = piece);
        filled.count()
    }

    fn advance(&mut self, mut by: usize) {
        assert!(by <= self.len, "more is read than there is");
        self.len -= by;
        while let Some(piece) = self.pieces.front_mut() {
            if by < piece.len() {
                return piece.advance(by);
            }
            by -= piece.len();
            self.pieces.pop_front();
        }
    }

    /// Bytes of one piece are a slice of it.
    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        let slice = self.pieces.front().filter(|piece| len <= piece.len());
        let slice = slice.map(|piece| piece.slice(..len));
        match slice {
            Some(slice) => {
                self.advance(len);
                slice
            }
            None => {
                let mut copied = BytesMut::with_capacity(len);
                copied.put(self.take(len));
                copied.freeze()
            }
        }
    }
}

// === impl Sent ===

impl<S> Sent<S> {
    /// A body of these replies.
    pub(super) fn new(replies: S) -> Self {
        Self {
            replies,
            head: BytesMut::new(),
            ended: false,
        }
    }

    fn frame(&mut self, reply: impl Outgoing) -> Pieces {
        self.head.reserve(HEAD);
        self.head.put_bytes(0, PREFIX);
        let body = reply.write(&mut self.head);
        let mut head = self.head.split();
        // What is written is bounded by what was received: far below 4 GiB.
        let len = u32::try_from(head.len() - PREFIX + body.len()).unwrap_or(u32::MAX);
        if let Some(place) = head.get_mut(1..PREFIX) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        let mut frame = Pieces::from(head.freeze());
        body.into_slices().into_iter().for_each(|slice| frame.push(slice));
        frame
    }
}

impl<S, M> HttpBody for Sent<S>
where
    S: Stream<Item = Result<M, Status>> + Unpin,
    M: Outgoing,
{
    type Data = Pieces;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, poller: &mut Context<'_>) -> Poll<Option<Result<Frame<Pieces>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let status = match ready!(Pin::new(&mut self.replies).poll_next(poller)) {
            Some(Ok(reply)) => return Poll::Ready(Some(Ok(Frame::data(self.frame(reply))))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.ended = true;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::StreamBody;
    use proptest::prelude::*;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::wire::log::Noted;
    use crate::wire::message::{HttpBody as Part, ProcessingRequest, RequestPart};

    fn body_of(text: &[u8]) -> ProcessingRequest {
        let part = Part {
            body: Bytes::copy_from_slice(text).into(),
            end_of_stream: true,
        };
        ProcessingRequest {
            request: Some(RequestPart::RequestBody(part)),
            ..ProcessingRequest::default()
        }
    }

    /// As it is sent: field 4 of the message, field 1 and 2 of the body.
    fn framed(text: &[u8]) -> Vec<u8> {
        use envoy_types::pb::envoy::service::ext_proc::v3 as theirs;
        let body = theirs::HttpBody {
            body: text.to_vec(),
            end_of_stream: true,
            ..theirs::HttpBody::default()
        };
        let message = theirs::ProcessingRequest {
            request: Some(theirs::processing_request::Request::RequestBody(body)),
            ..theirs::ProcessingRequest::default()
        };
        let message = message.encode_to_vec();
        let len = u32::try_from(message.len()).unwrap();
        [&[0], len.to_be_bytes().as_slice(), &message].concat()
    }

    /// What is read of bytes that arrive in frames cut so.
    fn read(mut bytes: &[u8], cuts: &[usize], bound: usize) -> Vec<Result<ProcessingRequest, tonic::Code>> {
        let mut frames = Vec::new();
        for cut in cuts {
            let (frame, rest) = bytes.split_at((*cut).min(bytes.len()));
            frames.push(frame);
            bytes = rest;
        }
        frames.push(bytes);
        let frames = frames.into_iter().map(Bytes::copy_from_slice);
        let frames: Vec<Result<_, Status>> = frames.map(|frame| Ok(Frame::data(frame))).collect();
        let body = StreamBody::new(tokio_stream::iter(frames));
        let messages = Messages::new(body, bound).map(|message| message.map_err(|status| status.code()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(messages.collect())
    }

    proptest! {
        #[test]
        fn however_its_frames_are_cut_a_message_is_read_as_it_was_sent(
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4),
            cuts in proptest::collection::vec(0usize..40, 0..12),
        ) {
            let sent: Vec<u8> = texts.iter().flat_map(|text| framed(text)).collect();
            let expected: Vec<_> = texts.iter().map(|text| Ok(body_of(text))).collect();
            prop_assert_eq!(read(&sent, &cuts, 1000), expected);
        }

        #[test]
        fn whatever_arrives_the_stream_ends(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(10), Just(34), any::<u8>()], 0..60),
            cuts in proptest::collection::vec(0usize..20, 0..4),
        ) {
            let read = read(&bytes, &cuts, 40);
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
        }
    }

    #[test]
    fn what_cannot_be_read_says_so_and_ends() {
        use tonic::Code;
        let good = framed(b"good");
        let refused = |bytes: &[u8]| {
            read(bytes, &[], 40)
                .into_iter()
                .map(|read| read.map(drop))
                .collect::<Vec<_>>()
        };
        assert_eq!(refused(&good[..good.len() - 1]), [Err(Code::Internal)], "cut off");
        assert_eq!(refused(&good[..3]), [Err(Code::Internal)], "cut off before its length");
        assert_eq!(refused(&framed(&[b'x'; 50])), [Err(Code::ResourceExhausted)]);
        assert_eq!(
            refused(&[&[1], &good[1..]].concat()),
            [Err(Code::Unimplemented)],
            "compressed"
        );
        // A body that says to be longer than its message.
        let cut = [&[0, 0, 0, 0, 4, 34, 2, 10, 9], good.as_slice()].concat();
        assert_eq!(refused(&cut), [Err(Code::Internal)]);
    }

    #[test]
    fn a_long_body_is_not_copied() {
        let sent = Bytes::from(framed(&[b'x'; 1000]));
        let mut received = Pieces::default();
        received.push(sent.slice(..500));
        received.push(sent.slice(500..));
        received.advance(PREFIX);
        let Some(RequestPart::RequestBody(part)) = ProcessingRequest::decode(received).unwrap().request else {
            panic!()
        };
        let within = |slice: &Bytes| sent.as_ptr_range().contains(&slice.as_ptr());
        assert!(part.body.slices().iter().all(within));
        assert_eq!((part.body.slices().len(), part.body.len()), (2, 1000));
    }

    #[tokio::test]
    async fn replies_end_with_one_status() {
        let replies = [Ok(Noted {}), Ok(Noted {}), Err(Status::internal("no"))];
        let mut sent = Sent::new(tokio_stream::iter(replies));
        let mut frames = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut sent).poll_frame(cx)).await {
            frames.push(frame.unwrap());
        }
        let trailers = frames.pop().unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"13".parse().unwrap(), &"no".parse().unwrap())
        );
        let data = |frame: Frame<Pieces>| frame.into_data().unwrap().copy_to_bytes(PREFIX);
        let data: Vec<_> = frames.into_iter().map(data).collect();
        assert_eq!(data, [[0u8; PREFIX].as_slice(), [0u8; PREFIX].as_slice()]);
    }
}
