//! Stories of a folder that changes.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn server(name: &str, port: &str) -> String {
    format!(
        "apiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelServer\nmetadata: {{name: {name}}}\nspec:\n  \
         inferenceEngine: vLLM\n  workloadSelector: {{matchLabels: {{app: m}}}}\n  workloadPort: {{port: {port}}}\n---\n"
    )
}

fn file(path: &str, text: &str) -> FoundFile {
    FoundFile {
        path: path.into(),
        content: FoundContent::Text(twox_hash::XxHash3_64::oneshot(text.as_bytes()), text.into()),
    }
}

/// Events as short words: `+name`, `-name`, `!count`.
fn words(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| match event {
            Event::Apply(object, _) => format!("+{}", object.key().name),
            Event::Delete(key) => format!("-{}", key.name),
            Event::Problems(problems) => format!("!{}", problems.len()),
            Event::Synced => "synced".into(),
        })
        .collect()
}

fn problems(events: &[Event]) -> Vec<Problem> {
    events
        .iter()
        .find_map(|event| match event {
            Event::Problems(problems) => Some(problems.clone()),
            _ => None,
        })
        .unwrap()
}

#[test]
fn only_what_changed_is_told() {
    let mut state = State::new(100);
    let (a, b) = (server("a", "1"), server("b", "1"));
    assert_eq!(
        words(&state.update(vec![file("x.yaml", &(a.clone() + &b))])),
        ["+a", "+b"]
    );
    assert!(state.update(vec![file("x.yaml", &(a.clone() + &b))]).is_empty());
    assert_eq!(
        words(&state.update(vec![file("x.yaml", &(a.clone() + &server("b", "2")))])),
        ["+b"]
    );
    assert_eq!(words(&state.update(vec![file("x.yaml", &a)])), ["-b"]);
    assert_eq!(words(&state.update(vec![])), ["-a"]);
}

#[test]
fn an_object_whose_document_breaks_stays_as_it_was() {
    let mut state = State::new(100);
    let good = server("a", "1") + &server("b", "1");
    state.update(vec![file("x.yaml", &good)]);
    // By its own fault, still named.
    assert_eq!(
        words(&state.update(vec![file("x.yaml", &(server("a", "0") + &server("b", "1")))])),
        ["!1"]
    );
    // Not even its name can be read: what the file held and is not seen may be it.
    let torn = format!("kind: [\n---\n{}", server("b", "2"));
    assert_eq!(words(&state.update(vec![file("x.yaml", &torn)])), ["+b", "!1"]);
    // Nor can the file.
    let unreadable = FoundFile {
        path: "x.yaml".into(),
        content: FoundContent::Unreadable("is not UTF-8".into()),
    };
    assert_eq!(words(&state.update(vec![unreadable])), ["!1"]);
    assert_eq!(words(&state.unreadable("gone")), ["!1"]);
    assert_eq!(
        words(&state.update(vec![file("x.yaml", &server("b", "2"))])),
        ["-a", "+b", "!0"]
    );
}

#[test]
fn of_two_documents_for_one_object_the_first_counts_and_both_places_are_named() {
    let mut state = State::new(100);
    let events = state.update(vec![
        file("y.yaml", &server("a", "2")),
        file("x.yaml", &server("a", "1")),
    ]);
    assert_eq!(words(&events), ["+a", "!1"]);
    let problem = &problems(&events)[0];
    assert_eq!(problem.place, "y.yaml:1");
    assert!(problem.message.contains("x.yaml:1"), "{problem:?}");
    assert!(!problem.harmless);
}

#[test]
fn the_order_is_age_then_path_and_place() {
    let aged = server("c", "1").replace("name: c", "name: c, creationTimestamp: \"2026-01-01T00:00:00Z\"");
    let events = State::new(100).update(vec![
        file("b.yaml", &server("b", "1")),
        file("a.yaml", &(server("z", "1") + &server("a", "1") + &aged)),
    ]);
    let mut orders: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Apply(object, origin) => Some((origin.order.clone(), object.key().name)),
            _ => None,
        })
        .collect();
    orders.sort();
    let names: Vec<_> = orders.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["c", "z", "a", "b"]);
}

#[test]
fn the_limit_of_documents_keeps_what_is_there() {
    let mut state = State::new(2);
    state.update(vec![
        file("b.yaml", &server("b", "1")),
        file("c.yaml", &server("c", "1")),
    ]);
    let events = state.update(vec![
        file("a.yaml", &server("a", "1")),
        file("b.yaml", &server("b", "1")),
        file("c.yaml", &server("c", "1")),
    ]);
    assert_eq!(words(&events), ["+a", "!1"]);
    assert!(problems(&events)[0].message.contains("more than 2 documents"));
}

#[test]
fn a_thousand_manifests_at_once_are_read_in_a_moment() {
    let files = (0..1000)
        .map(|i| file(&format!("{i}.yaml"), &server(&format!("m{i}"), "8000")))
        .collect();
    let begun = Instant::now();
    assert_eq!(State::new(2000).update(files).len(), 1000);
    // Well under a second; the bound leaves room for a busy machine.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

proptest! {
    /// Whatever the history, once every document is good the objects are those of the files, no more and no less.
    #[test]
    fn good_files_win_over_any_history(
        history in proptest::collection::vec(
            proptest::collection::vec((0..3usize, proptest::sample::select(vec!["a", "b", "c", "torn", "bad a"])), 0..6), 0..6),
        last in proptest::collection::btree_map(proptest::sample::select(vec!["a", "b", "c"]), 0..3usize, 0..4),
    ) {
        let found = |documents: &[(usize, &str)]| -> Vec<FoundFile> {
            let mut texts = BTreeMap::<usize, String>::new();
            for (at, what) in documents {
                texts.entry(*at).or_default().push_str(&match *what {
                    "torn" => "kind: [\n---\n".to_owned(),
                    "bad a" => server("a", "0"),
                    name => server(name, &(at + 1).to_string()),
                });
            }
            texts.into_iter().map(|(at, text)| file(&format!("{at}.yaml"), &text)).collect()
        };
        let mut state = State::new(100);
        let mut seen = BTreeSet::new();
        let mut updates: Vec<Vec<(usize, &str)>> = history;
        updates.push(last.iter().map(|(name, at)| (*at, *name)).collect());
        for update in updates {
            for event in state.update(found(&update)) {
                match event {
                    Event::Apply(object, _) => { seen.insert(object.key().name); }
                    Event::Delete(key) => { prop_assert!(seen.remove(&key.name), "{} was not there", key.name); }
                    _ => {}
                }
            }
        }
        let expected: BTreeSet<_> = last.keys().map(|name| (*name).to_owned()).collect();
        prop_assert_eq!(seen, expected);
        prop_assert!(state.problems.is_empty());
    }
}
