//! What the demo says, in plain words.
//!
//! A closed terminal is no reason to stop half-way: what cannot be printed is not printed.

use std::io::{IsTerminal as _, Write as _, stdout};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::profile::{CACHE_TOKENS, ENDPOINTS, Profile, SERVED_MODEL};
use super::progress::Progress;
use super::settings::Decider;
use super::verdict::{Figures, Results};
use super::workload::{TURNS, Workload};
use crate::system::System;

/// On a terminal progress is one line written again and again; elsewhere a line every so many seconds.
const LINE_EVERY: u64 = 5;

/// Prints a line.
pub(super) fn say(line: &str) {
    // See above: nobody is listening any more.
    let _ = writeln!(stdout(), "{line}");
    let _ = stdout().flush();
}

/// What is about to be started.
pub(super) fn starting(decider: Decider) {
    say(match decider {
        Decider::ExtProc => "Starting model servers, controller, two ext_proc servers and Envoy ...",
        Decider::Wasm => "Starting model servers, controller, and Envoy with the wasm filter ...",
    });
}

/// What runs where.
pub(super) fn tour(system: &System, decider: Decider, started_within: Duration) {
    let (envoy, choosers, told) = match decider {
        Decider::ExtProc => (
            "takes OpenAI requests, and asks one of the two below where each goes",
            "\n  kthena-ext-proc    two of them: choose the endpoint, and say why when asked",
            "Envoy and both ext_proc servers",
        ),
        Decider::Wasm => (
            "takes OpenAI requests; its wasm filter chooses the endpoint, and says why when asked",
            "",
            "Envoy and the filter in its worker",
        ),
    };
    let port = system.fleet().port();
    let endpoints: usize = system
        .fleet()
        .groups()
        .iter()
        .map(|group| usize::from(group.endpoints))
        .sum();
    say(&format!(
        "
Ready after {:.1} s. What runs on this machine now:

  Envoy              {}  {envoy}{choosers}
  kthena-controller  reads {}
                     watches every model server, and tells {told}
  model servers      {endpoints}, simulated, in one process, 127.0.x.y:{port}; each with the timing and KV cache of a real GPU

Model names that clients can use:
",
        started_within.as_secs_f64(),
        system.url(),
        system.manifests().path().display(),
    ));
    for profile in Profile::ALL {
        say(&format!(
            "  {:<24} alias of {SERVED_MODEL} on {ENDPOINTS} endpoints, profile {}",
            profile.model(),
            profile.name()
        ));
    }
    say(
        "  coder                    alias of meta-llama/Llama-3.1-8B-Instruct on 2 endpoints, which also serve its adapter sql",
    );
}

/// The first request and its answer.
pub(super) fn first_request(model: &str, took: Duration, endpoint: &str) {
    say(&format!(
        "\nThe first request, to {model}, went through Envoy to {endpoint}: answered in {} ms.",
        took.as_millis()
    ));
}

/// What is about to be replayed.
pub(super) fn workload(workload: &Workload, length: Duration) {
    say(&format!(
        "
Now {} conversations of {TURNS} turns, to each of the three profiles at the same time, each with {ENDPOINTS} endpoints of its own:
{} requests in about {} s. Their prefixes are {} tokens, {:.1} times the cache of one endpoint ({CACHE_TOKENS} tokens).
",
        workload.conversations.len(),
        workload.requests() * Profile::ALL.len(),
        length.as_secs(),
        workload.distinct_tokens(),
        workload.distinct_tokens() as f64 / CACHE_TOKENS as f64,
    ));
}

/// How far the replay is.
pub(super) fn progress(progress: &Progress, elapsed: Duration, requests: usize) {
    let counts: Vec<String> = Profile::ALL
        .into_iter()
        .map(|profile| format!("{} {}", profile.name(), progress.answered(profile)))
        .collect();
    let line = format!(
        "  {:>3} s  answered of {requests} each: {}; lost: {}",
        elapsed.as_secs(),
        counts.join(", "),
        progress.lost()
    );
    if stdout().is_terminal() {
        let _ = write!(stdout(), "\r{line}  ");
        let _ = stdout().flush();
    } else if elapsed.as_secs().is_multiple_of(LINE_EVERY) {
        say(&line);
    }
}

/// Ends the line of progress.
pub(super) fn progress_end() {
    if stdout().is_terminal() {
        say("");
    }
}

/// The results, side by side.
pub(super) fn table(results: &Results) {
    let columns = [&results.random, &results.least_request, &results.default];
    let row = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        let cells: Vec<String> = columns.iter().map(|figures| format!("{:>14}", cell(figures))).collect();
        say(&format!("  {name:<44}{}", cells.concat()));
    };
    let milliseconds = |time: Duration| format!("{} ms", time.as_millis());
    let names: Vec<String> = Profile::ALL
        .into_iter()
        .map(|profile| format!("{:>14}", profile.name()))
        .collect();
    say(&format!("\n  {:<44}{}", "profile", names.concat()));
    row("time to first token at the client, p50", &|figures| {
        milliseconds(figures.percentile(0.5))
    });
    row("time to first token at the client, p90", &|figures| {
        milliseconds(figures.percentile(0.9))
    });
    row("prompt tokens from the cache (engines' count)", &|figures| {
        format!("{:.1} %", figures.hit_share * 100.0)
    });
    row("requests answered", &|figures| figures.first_tokens.len().to_string());
    row("requests lost", &|figures| figures.lost.to_string());
}

/// A decision, from the header that explains it, in words.
pub(super) fn explanation(header: &str) -> Result<()> {
    for line in explained(header)? {
        say(&line);
    }
    Ok(())
}

fn explained(header: &str) -> Result<Vec<String>> {
    let value: Value = serde_json::from_str(header).context("the explanation is not JSON")?;
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let number = |value: &Value| {
        value
            .as_f64()
            .map_or_else(|| "-".to_owned(), |number| format!("{number:.0}"))
    };
    let mut lines = vec![format!(
        "  {} ({}) was chosen among {} candidates by the profile {}.",
        text(&value["pick"]),
        text(&value["address"]),
        number(&value["candidates"]),
        text(&value["profile"]),
    )];
    let filtered = value["filtered"].as_object().filter(|filtered| !filtered.is_empty());
    lines.push(match filtered {
        None => "  No filter left anyone out.".to_owned(),
        Some(filtered) => {
            let counts: Vec<String> = filtered
                .iter()
                .map(|(name, count)| format!("{} by {name}", number(count)))
                .collect();
            format!("  Left out: {}.", counts.join(", "))
        }
    });
    lines.push(format!(
        "  It is believed to hold {} of the prompt's {} blocks in its cache.",
        number(&value["matched_blocks"]),
        number(&value["total_blocks"]),
    ));
    lines.push("  Points, 0 to 100 by each plugin, and their sum:".to_owned());
    for entry in value["top"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let scores = entry["scores"].as_object();
        let scores = scores
            .into_iter()
            .flatten()
            .map(|(plugin, points)| format!("{plugin} {}", number(&points[0])));
        lines.push(format!(
            "    {:<30} {:>5}  = {}",
            text(&entry["pod"]),
            number(&entry["total"]),
            scores.collect::<Vec<_>>().join(" + ")
        ));
    }
    Ok(lines)
}

/// A command that works.
pub(super) fn curl(system: &System) {
    say(&format!(
        "
Try it yourself:

  curl -i {}/v1/chat/completions -H 'content-type: application/json' -H 'x-kthena-explain: 1' \\
    -d '{{\"model\":\"{}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Tell me a story.\"}}],\"max_tokens\":32}}'
",
        system.url(),
        Profile::Default.model()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_told_in_words() {
        let header = r#"{"pick":"default/assistant-3","address":"127.0.3.4:8000","profile":"default","candidates":7,
            "filtered":{"down":1},"saturated":false,"matched_blocks":190,"total_blocks":200,
            "top":[{"pod":"default/assistant-3","address":"127.0.3.4:8000","total":351.2,
                    "scores":{"gpu-usage":[null,1.0],"prefix-cache":[95.0,1.0]}}]}"#;
        let lines = explained(header).unwrap().join("\n");
        assert!(
            lines.contains("default/assistant-3 (127.0.3.4:8000) was chosen among 7 candidates"),
            "{lines}"
        );
        assert!(lines.contains("Left out: 1 by down."), "{lines}");
        assert!(lines.contains("190 of the prompt's 200 blocks"), "{lines}");
        assert!(lines.contains("351  = gpu-usage - + prefix-cache 95"), "{lines}");
        assert!(explained("not JSON").is_err());
    }
}
