//! Why this endpoint: a decision as a value that people and programs can read.
//!
//! Made only when somebody asks, from what the decision wrote down ([`Scratch`]), so that it costs the others nothing.
//! What must always hold: it is made right after its decision, with the same scratch, before the next one overwrites it;
//! the header form is one line of printable ASCII of at most [`MAX_HEADER_BYTES`] bytes. Nothing fails.

use serde::{Serialize, Serializer};

use crate::pick::{Decision, Fate, Scratch};
use crate::snapshot::ModelServer;

/// The most bytes that the header form takes.
pub const MAX_HEADER_BYTES: usize = 4096;

/// Endpoints shown in the header form.
const TOP: usize = 5;

/// Why a decision fell as it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// `namespace/name` of the ModelServer.
    pub server: String,
    /// The profile that decided.
    pub profile: String,
    /// The pod chosen.
    pub pick: String,
    /// Where it listens.
    pub address: String,
    /// Endpoints that were scored.
    pub candidates: usize,
    /// How many endpoints each filter dropped; `down` are those observed to be unable to serve.
    pub filtered: Counts,
    /// The filters left nobody, so the least loaded was taken.
    pub saturated: bool,
    /// Prompt blocks that the chosen one is believed to hold.
    pub matched_blocks: u32,
    /// Prompt blocks that were looked at.
    pub total_blocks: u32,
    /// Every endpoint: those chosen first and in their order, then by total, then those filtered out.
    pub endpoints: Vec<Entry>,
}

/// Counts by name, in the order of the filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(&'static str, usize)>);

/// One endpoint in an explanation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// Where it listens.
    pub address: String,
    /// Weighted sum of its points; absent for one that was not scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<f32>,
    /// Points by plugin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Points>,
    /// The filter that dropped it, or `down`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtered_by: Option<&'static str>,
}

/// What one plugin gave one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Points {
    /// The plugin.
    pub plugin: &'static str,
    /// 0 to 100; absent = no opinion, it counted as average.
    pub points: Option<f32>,
    /// What they were multiplied by.
    pub weight: u32,
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, count)| (name, count)))
    }
}

/// Explains `decision`, the last one made with `scratch`.
pub fn explain(server: &ModelServer, scratch: &Scratch, decision: &Decision) -> Explanation {
    let mut endpoints: Vec<(usize, Entry)> = (0..scratch.fates.len())
        .map(|at| (at, entry(server, scratch, at)))
        .collect();
    let rank = |at: usize| decision.endpoints.iter().position(|chosen| *chosen as usize == at);
    endpoints.sort_by(|(a, left), (b, right)| {
        let place = |at| rank(at).unwrap_or(usize::MAX);
        let total = |entry: &Entry| entry.total.unwrap_or(f32::NEG_INFINITY);
        place(*a)
            .cmp(&place(*b))
            .then(total(right).total_cmp(&total(left)))
            .then(a.cmp(b))
    });
    let pick = decision
        .endpoints
        .first()
        .and_then(|at| server.endpoints.get(*at as usize));
    Explanation {
        server: server.name.to_string(),
        profile: server.profile.name.to_string(),
        pick: pick.map(|endpoint| endpoint.pod.to_string()).unwrap_or_default(),
        address: pick.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        candidates: scratch.at.len(),
        filtered: counts(server, scratch),
        saturated: decision.saturated,
        matched_blocks: decision.matched_blocks,
        total_blocks: decision.total_blocks,
        endpoints: endpoints.into_iter().map(|(_, entry)| entry).collect(),
    }
}

fn filter_name(server: &ModelServer, fate: Fate) -> Option<&'static str> {
    match fate {
        Fate::Candidate => None,
        Fate::Down => Some("down"),
        Fate::Filtered(position) => server
            .profile
            .filters()
            .get(usize::from(position))
            .map(|filter| filter.name),
    }
}

fn counts(server: &ModelServer, scratch: &Scratch) -> Counts {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for fate in &scratch.fates {
        let Some(name) = filter_name(server, *fate) else {
            continue;
        };
        match counts.iter_mut().find(|(counted, _)| *counted == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    counts.sort_unstable();
    Counts(counts)
}

fn entry(server: &ModelServer, scratch: &Scratch, at: usize) -> Entry {
    let candidate = scratch.at.binary_search(&(at as u32)).ok();
    let scores = candidate.map_or(Vec::new(), |candidate| {
        let rows = scratch.points.chunks_exact(scratch.at.len());
        let scores = server.profile.scores().iter().zip(rows);
        scores
            .map(|(score, points)| Points {
                plugin: score.name,
                points: Some(points[candidate]).filter(|points| !points.is_nan()),
                weight: score.weight,
            })
            .collect()
    });
    let endpoint = &server.endpoints[at];
    Entry {
        pod: endpoint.pod.to_string(),
        address: endpoint.address.to_string(),
        total: candidate.and_then(|candidate| scratch.totals.get(candidate).copied()),
        scores,
        filtered_by: filter_name(server, scratch.fates[at]),
    }
}

// === impl Explanation ===

/// The header form: names are short, numbers have one decimal, points are a map by plugin with their weight in the key
/// where it is not 1.
#[derive(Serialize)]
struct Short<'a> {
    pick: &'a str,
    address: &'a str,
    profile: &'a str,
    candidates: usize,
    filtered: &'a Counts,
    saturated: bool,
    matched_blocks: u32,
    total_blocks: u32,
    top: Vec<ShortEntry<'a>>,
}

#[derive(Serialize)]
struct ShortEntry<'a> {
    pod: &'a str,
    address: &'a str,
    total: Option<f64>,
    scores: ShortScores<'a>,
}

struct ShortScores<'a>(&'a [Points]);

impl Serialize for ShortScores<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|score| (score.plugin, [tenths(score.points), Some(score.weight.into())])),
        )
    }
}

fn tenths(value: impl Into<Option<f32>>) -> Option<f64> {
    value.into().map(|value| (f64::from(value) * 10.0).round() / 10.0)
}

impl Explanation {
    /// The pick, the top five and the counts by filter, as a header's value: compact JSON in printable ASCII. What does
    /// not fit is left out from the end of the top.
    pub fn to_header(&self) -> String {
        for shown in (0..=TOP).rev() {
            let header = self.short(shown);
            if header.len() <= MAX_HEADER_BYTES {
                return header;
            }
        }
        // Names alone fill it: they are as long as their configuration allows.
        format!(
            "{{\"candidates\":{},\"saturated\":{}}}",
            self.candidates, self.saturated
        )
    }

    fn short(&self, shown: usize) -> String {
        // Where the filters left nobody, or all are down, those that they dropped were ranked all the same.
        let top = self.endpoints.iter().filter(|entry| entry.total.is_some());
        let short = Short {
            pick: &self.pick,
            address: &self.address,
            profile: &self.profile,
            candidates: self.candidates,
            filtered: &self.filtered,
            saturated: self.saturated,
            matched_blocks: self.matched_blocks,
            total_blocks: self.total_blocks,
            top: top
                .take(shown)
                .map(|entry| ShortEntry {
                    pod: &entry.pod,
                    address: &entry.address,
                    total: tenths(entry.total),
                    scores: ShortScores(&entry.scores),
                })
                .collect(),
        };
        // Strings, numbers and maps with string keys always serialise.
        ascii(&serde_json::to_string(&short).unwrap_or_default())
    }
}

/// Escapes what a header cannot carry; outside of strings JSON has no such character.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pick::fixture::{Site, ask, prompt};
    use crate::profile::Profile;

    fn explained(endpoints: u32, prepare: impl Fn(&mut Site)) -> Explanation {
        let mut site = Site::new(endpoints, Profile::default_profile());
        prepare(&mut site);
        let decision = site.decide(&ask(Some(&prompt("hello")), 1));
        explain(&site.server, &site.scratch, &decision)
    }

    #[test]
    fn it_says_who_was_chosen_who_was_dropped_by_what_and_the_points() {
        let explanation = explained(4, |site| {
            site.waiting(0, 20);
            site.down(1);
            site.busy(2, 40);
        });
        assert_eq!(explanation.pick, "ns/pod-3");
        assert_eq!(explanation.candidates, 2);
        assert_eq!(explanation.filtered, Counts(vec![("down", 1), ("least-request", 1)]));
        let pods: Vec<&str> = explanation.endpoints.iter().map(|entry| &*entry.pod).collect();
        assert_eq!(pods, ["ns/pod-3", "ns/pod-2", "ns/pod-0", "ns/pod-1"]);
        let first = &explanation.endpoints[0];
        assert_eq!(
            first.scores[0],
            Points {
                plugin: "least-request",
                points: Some(100.0),
                weight: 1
            }
        );
        assert_eq!((first.scores[1].plugin, first.scores[1].points), ("gpu-usage", None));
        assert_eq!(explanation.endpoints[2].filtered_by, Some("least-request"));
        assert_eq!(explanation.endpoints[2].total, None);
    }

    #[test]
    fn the_header_is_one_short_line_of_json_with_the_top_five() {
        let header = explained(300, |_| {}).to_header();
        assert!(header.len() <= MAX_HEADER_BYTES, "{}", header.len());
        let value: serde_json::Value = serde_json::from_str(&header).unwrap();
        assert_eq!(value["candidates"], 300);
        assert_eq!(value["top"].as_array().unwrap().len(), 5);
        assert_eq!(value["top"][0]["pod"], value["pick"]);
        assert_eq!(
            value["top"][0]["scores"]["least-request"],
            serde_json::json!([100.0, 1.0])
        );
    }

    #[test]
    fn names_that_a_header_cannot_carry_or_that_fill_it_do_no_harm() {
        let mut explanation = explained(5, |_| {});
        explanation.pick = "ns/p\u{f6}d\n\u{1f600}\u{7f}".into();
        let header = explanation.to_header();
        assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{header}");
        let value: serde_json::Value = serde_json::from_str(&header).unwrap();
        assert_eq!(value["pick"], explanation.pick);
        for (pods, shown) in [(1_000, 3), (3_900, 0)] {
            for entry in &mut explanation.endpoints {
                entry.pod = "p".repeat(pods);
            }
            let header = explanation.to_header();
            assert!(header.len() <= MAX_HEADER_BYTES);
            let value: serde_json::Value = serde_json::from_str(&header).unwrap();
            assert_eq!(value["top"].as_array().unwrap().len(), shown);
        }
        explanation.pick = "p".repeat(5_000);
        assert!(explanation.to_header().len() <= MAX_HEADER_BYTES);
    }

    #[test]
    fn when_all_are_down_those_who_serve_are_shown() {
        let explanation = explained(3, |site| (0..3).for_each(|at| site.down(at)));
        assert_eq!(explanation.filtered, Counts(vec![("down", 3)]));
        let value: serde_json::Value = serde_json::from_str(&explanation.to_header()).unwrap();
        assert_eq!(value["top"].as_array().unwrap().len(), 3);
        assert_eq!(value["top"][0]["pod"], value["pick"]);
    }

    #[test]
    fn a_saturated_decision_is_explained_by_load() {
        let explanation = explained(2, |site| {
            site.waiting(0, 20);
            site.waiting(1, 60);
        });
        assert!(explanation.saturated);
        assert_eq!(explanation.pick, "ns/pod-0");
        assert_eq!(explanation.filtered, Counts(vec![("least-request", 2)]));
        assert!(explanation.to_header().contains("ns/pod-1"));
    }
}
