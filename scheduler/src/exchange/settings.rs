//! What an operator sets for every request.

/// Settings of the exchange; the shell reads them from its configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosts whose requests are routed, in lower case and without port; empty = all.
    pub hosts: Vec<String>,
    /// The largest body accepted, bytes.
    pub max_body_bytes: u64,
    /// How long a request is held while there is no state, milliseconds.
    pub state_wait_ms: u64,
    /// What happens when there is still no state then.
    pub when_no_state: WhenNoState,
    /// What happens when the filters leave no endpoint.
    pub when_saturated: WhenSaturated,
    /// Whether a client may ask for an explanation.
    pub explain: bool,
    /// Decisions whose random number is below this are explained to the shell, for its log and its debug page.
    pub explain_below: u64,
    /// Whether the head alone decides, since the host cannot hold it until the body is there: the client names the model in
    /// the path or in a header, the body is neither read nor changed, and what a prompt says does not count.
    pub by_head: bool,
    /// Whether usage is asked of the engine for streams whose client did not, and the extra chunk withheld.
    pub usage_injection: bool,
    /// Calls made before each decision.
    #[cfg(test)]
    pub probes: u32,
}

/// What happens to a request when there is no state to decide on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenNoState {
    /// The client gets 503.
    #[default]
    Reject,
    /// It goes on undecided, to where the host's own routes send it.
    Pass,
}

/// What happens when the filters leave no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenSaturated {
    /// The least loaded endpoint serves.
    #[default]
    Serve,
    /// The client gets 429.
    Reject,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            max_body_bytes: 16 * 1024 * 1024,
            state_wait_ms: 5_000,
            when_no_state: WhenNoState::Reject,
            when_saturated: WhenSaturated::Serve,
            explain: false,
            explain_below: 0,
            by_head: false,
            usage_injection: false,
            #[cfg(test)]
            probes: 0,
        }
    }
}

impl Settings {
    /// Whether requests for this authority are routed.
    pub fn routes_host(&self, authority: &str) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        let host = match authority.rsplit_once(':') {
            // The colons of a bare IPv6 address are not a port's.
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => host,
            _ => authority,
        };
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_case_and_port() {
        let settings = Settings {
            hosts: vec!["llm.example".into(), "[::1]".into()],
            ..Settings::default()
        };
        for ours in ["llm.example", "LLM.example:8080", "[::1]:80", "[::1]"] {
            assert!(settings.routes_host(ours), "{ours}");
        }
        for other in ["", "other.example", "llm.example.org:80"] {
            assert!(!settings.routes_host(other), "{other}");
        }
        assert!(Settings::default().routes_host("anything"));
    }
}
