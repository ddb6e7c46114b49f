//! The last good state in the host's shared data, so that a plugin that replaces another serves at once, controller or not.
//!
//! What must always hold: what is read is as untrusted as what comes over the wire: it goes through the same translation,
//! and what is damaged or too large is left aside. It is written only when it differs from what is there, as all VMs of a
//! host would write the same. Loads are not kept: they would be old.

use kthena_scheduler::state::proto;
use prost::Message as _;
use twox_hash::XxHash3_64;

use crate::host::Host;

/// Names the format; another layout gets another name.
const STATE: &str = "kthena.state.1";
/// The checksum of what is under [`STATE`].
const MARK: &str = "kthena.state.1.mark";

/// The state that was left; `None` when there is none.
pub(crate) fn load(host: &impl Host, max_bytes: usize) -> Result<Option<proto::Update>, String> {
    if max_bytes == 0 {
        return Ok(None);
    }
    let Some(bytes) = host.shared(STATE) else {
        return Ok(None);
    };
    if bytes.len() > max_bytes {
        return Err(format!("it is larger than {max_bytes} bytes"));
    }
    let (sum, body) = bytes.split_first_chunk::<8>().ok_or("it is cut off")?;
    if XxHash3_64::oneshot(body) != u64::from_le_bytes(*sum) {
        return Err("its checksum does not match".to_owned());
    }
    let state = proto::Update::decode(body).map_err(|error| error.to_string())?;
    Ok(Some(state))
}

/// Leaves the state.
pub(crate) fn store(host: &impl Host, state: &proto::Update, max_bytes: usize) -> Result<(), String> {
    let length = state.encoded_len() + 8;
    if length > max_bytes {
        return Err(format!("it has {length} bytes, shared_state_bytes is {max_bytes}"));
    }
    let mut bytes = vec![0; 8];
    bytes.reserve_exact(length - 8);
    state.encode(&mut bytes).map_err(|error| error.to_string())?;
    let sum = XxHash3_64::oneshot(&bytes[8..]).to_le_bytes();
    if host.shared(MARK).as_deref() == Some(&sum[..]) {
        return Ok(());
    }
    bytes[..8].copy_from_slice(&sum);
    host.share(STATE, &bytes);
    host.share(MARK, &sum);
    Ok(())
}
