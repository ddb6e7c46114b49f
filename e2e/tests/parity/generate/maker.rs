//! What all stories make requests with.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::draws::Draws;
use super::forms::{self, Form};
use super::spelling::Spelling;
use crate::places::{Place, places};
use crate::request::{Body, Cuts, End, Request};

/// Where `model` stands among the fields of a body.
#[derive(Clone, Copy, Debug)]
enum ModelAt {
    First,
    Middle,
    Last,
}

/// Makes the requests of one picture.
pub(crate) struct Maker {
    pub(crate) draws: Draws,
    picture: &'static str,
    host: &'static str,
    made: Vec<Request>,
    forms: Vec<Form>,
    /// So many cuts were looked for, so that each kind of place has its turn.
    cuts: usize,
}

impl Maker {
    pub(crate) fn new(picture: &'static str) -> Self {
        Self {
            draws: Draws::new(picture),
            picture,
            host: "llm.example",
            made: Vec::new(),
            forms: forms::all(),
            cuts: 0,
        }
    }

    pub(crate) fn finish(self) -> Vec<Request> {
        self.made
    }

    pub(crate) fn forms(&self) -> usize {
        self.forms.len()
    }

    /// A request without a body.
    pub(crate) fn plain(&self, what: &str, method: &str, path: &str) -> Request {
        Request {
            name: what.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            host: self.host.to_owned(),
            headers: BTreeMap::new(),
            body: Body::default(),
            cuts: Cuts::None,
            end: End::Last,
            stays: false,
            early: false,
            row: None,
        }
    }

    /// A JSON body for a path, in one piece.
    pub(crate) fn post(&self, what: &str, path: &str, body: impl Into<String>) -> Request {
        let mut request = self.plain(what, "POST", path);
        request
            .headers
            .insert("content-type".to_owned(), "application/json".to_owned());
        request.body = Body::Text(body.into());
        request
    }

    /// A prompt of a form for a model; spelled, cut and ended as chance will have it.
    pub(crate) fn infer(&mut self, form: usize, model: &str) -> Request {
        let Form { name, path, fields } = self.forms[form];
        let fields = fields(&mut self.draws);
        let place = *self
            .draws
            .one(&[ModelAt::First, ModelAt::First, ModelAt::Middle, ModelAt::Last]);
        let body = self.spell(fields, model, place);
        let what = format!("{name}, {model}");
        let mut request = self.post(&what, path, body);
        self.dress(&mut request);
        request
    }

    /// The same of a chat with this text.
    pub(crate) fn chat(&mut self, model: &str, messages: Value) -> Request {
        let body = self.spell(vec![("messages", messages)], model, ModelAt::First);
        let mut request = self.post(&format!("chat, {model}"), "/v1/chat/completions", body);
        self.dress(&mut request);
        request
    }

    fn spell(&mut self, fields: Vec<(&'static str, Value)>, model: &str, place: ModelAt) -> String {
        let spelling = *self
            .draws
            .one(&[Spelling::Compact, Spelling::Compact, Spelling::Python, Spelling::Pretty]);
        let mut fields: Vec<_> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let at = match place {
            ModelAt::First => 0,
            ModelAt::Middle => fields.len() / 2,
            ModelAt::Last => fields.len(),
        };
        fields.insert(at, ("model".to_owned(), json!(model)));
        spelling.object(&fields)
    }

    fn dress(&mut self, request: &mut Request) {
        if self.draws.percent(50) {
            let length = request.body.bytes().len();
            request.headers.insert("content-length".to_owned(), length.to_string());
        }
        if self.draws.percent(30) {
            request.headers.insert("x-kthena-explain".to_owned(), "1".to_owned());
        }
        self.cut(request);
        request.end = *self
            .draws
            .one(&[End::Last, End::Last, End::Last, End::Empty, End::Trailers]);
    }

    /// Cuts a body at places that are hard to read over.
    pub(crate) fn cut(&mut self, request: &mut Request) {
        let body = request.body.bytes();
        request.cuts = match self.draws.below(10) {
            0..=2 => Cuts::None,
            3 if body.len() < 600 => Cuts::Every(1 + self.draws.below(3)),
            4 => Cuts::Every(7 + self.draws.below(60)),
            _ => {
                let count = 1 + self.draws.below(4);
                self.awkward(&body, count)
            }
        };
    }

    fn awkward(&mut self, body: &[u8], count: usize) -> Cuts {
        let places = places(body);
        let mut cuts: Vec<usize> = (0..count)
            .filter_map(|_| {
                self.cuts += 1;
                let wanted = Place::ALL[self.cuts % Place::ALL.len()];
                let found: Vec<usize> = (0..places.len()).filter(|at| places[*at] == wanted).collect();
                (!found.is_empty()).then(|| self.draws.one(&found) + 1)
            })
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        if cuts.is_empty() { Cuts::None } else { Cuts::At(cuts) }
    }

    /// Adds a request, names it, and gives it the identifier that its choices are seeded from.
    pub(crate) fn add(&mut self, request: Request) {
        let id = format!("{}-{:03}", self.picture, self.made.len() + 1);
        self.add_without_id(Request {
            headers: request
                .headers
                .into_iter()
                .chain([("x-request-id".to_owned(), id)])
                .collect(),
            ..request
        });
    }

    /// Adds a request that has no identifier.
    pub(crate) fn add_without_id(&mut self, request: Request) {
        let name = format!("{:03} {}", self.made.len() + 1, request.name);
        self.made.push(Request { name, ..request });
    }
}
