//! A status as Kubernetes has it: conditions, each with a reason for programs and a message for people.
//!
//! What must always hold: the same judgement gives the same conditions, byte for byte, but for the time of the last transition, which
//! is taken over from the condition before as long as its status is the same; so that nothing is written when nothing changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kthena_gateway_api::{ACCEPTED, FieldIssue, PROGRAMMED, RESOLVED_REFS};

use super::Status;
use crate::source::Kind;

/// Longest message; the API server takes 32,768 bytes.
const LONGEST_MESSAGE: usize = 4096;

/// How far the filters have got with an object's newest version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Filters connected.
    pub connected: usize,
    /// Filters that acknowledged all that it became.
    pub acknowledged: usize,
    /// Filters that refused some of it: who, and why.
    pub refused: Vec<(String, String)>,
}

/// What an object's conditions are made from.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The object's kind.
    pub kind: Kind,
    /// Its generation.
    pub generation: Option<i64>,
    /// What was found.
    pub status: &'a Status,
    /// What the filters say; `None` = it becomes nothing that a filter receives.
    pub programmed: Option<&'a Programmed>,
}

struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

/// The conditions of an object, given those that it has.
pub fn conditions(judged: Judged<'_>, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let mut verdicts = vec![(ACCEPTED, accepted(judged))];
    if matches!(judged.kind, Kind::ModelRoute | Kind::ModelServer) {
        verdicts.push((RESOLVED_REFS, resolved(judged)));
        verdicts.push((PROGRAMMED, programmed(judged)));
    }
    let condition = |(type_, verdict): (&str, Verdict)| {
        let status = if verdict.holds { "True" } else { "False" };
        let old = before.iter().find(|old| old.type_ == type_ && old.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_owned(),
            message: shortened(verdict.message),
            observed_generation: judged.generation,
            last_transition_time: old.map_or_else(|| Time(now), |old| old.last_transition_time.clone()),
        }
    };
    verdicts.into_iter().map(condition).collect()
}

fn accepted(Judged { kind, status, .. }: Judged<'_>) -> Verdict {
    if !status.errors.is_empty() || !status.accepted {
        let consequence = match status.serving {
            true => "the last good version stays in force",
            false => "nothing of it is in force",
        };
        return Verdict {
            holds: false,
            reason: "Invalid",
            message: format!("{}; {consequence}", joined(&status.errors)),
        };
    }
    if kind == Kind::ExternalModelProvider {
        return Verdict {
            holds: false,
            reason: "NotServedYet",
            message: "requests to providers outside the cluster are not served yet".to_owned(),
        };
    }
    let message = match status.warnings.as_slice() {
        [] => "in force".to_owned(),
        warnings => format!("in force, but: {}", joined(warnings)),
    };
    Verdict {
        holds: true,
        reason: "Accepted",
        message,
    }
}

fn resolved(Judged { kind, status, .. }: Judged<'_>) -> Verdict {
    match (status.unresolved.as_slice(), kind) {
        ([], Kind::ModelServer) => Verdict {
            holds: true,
            reason: "ResolvedRefs",
            message: "the labels select pods that can serve".to_owned(),
        },
        ([], _) => Verdict {
            holds: true,
            reason: "ResolvedRefs",
            message: "every target is there".to_owned(),
        },
        (missing, Kind::ModelServer) => Verdict {
            holds: false,
            reason: "NoEndpoints",
            message: joined(missing),
        },
        (missing, _) => Verdict {
            holds: false,
            reason: "BackendNotFound",
            message: joined(missing),
        },
    }
}

fn programmed(Judged { status, programmed, .. }: Judged<'_>) -> Verdict {
    let verdict = |holds, reason, message: String| Verdict { holds, reason, message };
    if !status.accepted {
        return verdict(false, "NotAccepted", "this version is not in force".to_owned());
    }
    let Some(filters) = programmed else {
        return verdict(false, "Pending", "it is not published yet".to_owned());
    };
    if !filters.refused.is_empty() {
        let refusals: Vec<_> = filters
            .refused
            .iter()
            .map(|(who, why)| format!("{who}: {why}"))
            .collect();
        return verdict(
            false,
            "Refused",
            format!(
                "{} of {} filters refused it and keep what they had: {}",
                refusals.len(),
                filters.connected,
                refusals.join("; ")
            ),
        );
    }
    match (filters.connected, filters.acknowledged) {
        (0, _) => verdict(
            false,
            "NoFilters",
            "no filter that sees it is connected to any controller".to_owned(),
        ),
        (connected, acknowledged) if acknowledged < connected => verdict(
            false,
            "Pending",
            format!("{acknowledged} of {connected} filters have acknowledged it"),
        ),
        _ => verdict(true, "Programmed", "every connected filter has it".to_owned()),
    }
}

fn joined(issues: &[FieldIssue]) -> String {
    let issues: Vec<_> = issues.iter().map(ToString::to_string).collect();
    issues.join("; ")
}

/// At most as much as fits, cut between characters.
fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE - 4)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(errors: &[&str], warnings: &[&str], unresolved: &[&str]) -> Status {
        let issues = |texts: &[&str]| texts.iter().map(|text| FieldIssue::new("spec.x", *text)).collect();
        Status {
            accepted: errors.is_empty(),
            serving: true,
            errors: issues(errors),
            warnings: issues(warnings),
            unresolved: issues(unresolved),
            ..Status::default()
        }
    }

    fn filters(connected: usize, acknowledged: usize, refused: &[(&str, &str)]) -> Programmed {
        let refused = refused.iter().map(|(who, why)| ((*who).to_owned(), (*why).to_owned()));
        Programmed {
            connected,
            acknowledged,
            refused: refused.collect(),
        }
    }

    fn said(kind: Kind, status: &Status, programmed: Option<&Programmed>) -> Vec<String> {
        let judged = Judged {
            kind,
            generation: Some(3),
            status,
            programmed,
        };
        conditions(judged, &[], Timestamp::UNIX_EPOCH)
            .iter()
            .inspect(|condition| assert_eq!(condition.observed_generation, Some(3)))
            .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message))
            .collect()
    }

    #[test]
    fn what_is_well_says_so() {
        assert_eq!(
            said(Kind::ModelServer, &status(&[], &[], &[]), Some(&filters(2, 2, &[]))),
            [
                "Accepted=True Accepted: in force",
                "ResolvedRefs=True ResolvedRefs: the labels select pods that can serve",
                "Programmed=True Programmed: every connected filter has it",
            ]
        );
    }

    #[test]
    fn what_is_not_names_field_and_consequence() {
        assert_eq!(
            said(
                Kind::ModelRoute,
                &status(&["too long"], &[], &["no server m"]),
                Some(&filters(1, 1, &[]))
            ),
            [
                "Accepted=False Invalid: spec.x: too long; the last good version stays in force",
                "ResolvedRefs=False BackendNotFound: spec.x: no server m",
                "Programmed=False NotAccepted: this version is not in force",
            ]
        );
        let of_filters = |filters: &Programmed| said(Kind::ModelRoute, &status(&[], &[], &[]), Some(filters)).remove(2);
        assert!(of_filters(&filters(0, 0, &[])).contains("NoFilters"));
        assert!(of_filters(&filters(3, 1, &[])).contains("Pending: 1 of 3"));
        assert!(
            of_filters(&filters(3, 2, &[("f", "no regex")]))
                .contains("1 of 3 filters refused it and keep what they had: f: no regex")
        );
    }

    #[test]
    fn what_has_no_effect_is_said_and_a_provider_is_not_served_yet() {
        let warned = said(Kind::ModelRoute, &status(&[], &["not built"], &[]), None);
        assert_eq!(warned[0], "Accepted=True Accepted: in force, but: spec.x: not built");
        let provider = said(Kind::ExternalModelProvider, &status(&[], &[], &[]), None);
        assert_eq!(provider.len(), 1);
        assert!(provider[0].starts_with("Accepted=False NotServedYet"));
    }

    #[test]
    fn the_time_of_the_last_transition_stays_while_the_status_does() {
        let (good, bad) = (status(&[], &[], &[]), status(&["wrong"], &[], &[]));
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let judged = |status| Judged {
            kind: Kind::ModelRoute,
            generation: Some(1),
            status,
            programmed: None,
        };
        let first = conditions(judged(&good), &[], at(1));
        assert_eq!(conditions(judged(&good), &first, at(2)), first);
        let second = conditions(judged(&bad), &first, at(3));
        assert_eq!(second[0].last_transition_time, Time(at(3)));
        assert_eq!(second[1].last_transition_time, Time(at(1)));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let long = shortened("ü".repeat(LONGEST_MESSAGE));
        assert!(
            long.len() <= LONGEST_MESSAGE && long.ends_with("ü ..."),
            "{}",
            long.len()
        );
    }
}
