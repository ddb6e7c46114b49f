//! Story: what Kthena's own router suites assert, with objects that kubectl applies to a real API server, through ext_proc and through the wasm filter:
//! rules and weights, adapters, duplicates, metrics, and each scheduling plugin by itself.

use std::collections::BTreeMap;

use kthena_e2e::client::{Ask, Client};
use kthena_e2e::system::Filter;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::{model_route, model_server};
use kthena_e2e::system::story::group_of;
use serde_json::json;

use super::*;

fn wasm() -> Filter {
    Filter::Wasm(json!({}))
}

/// Asks this often, and tells how often each model server answered.
async fn spread(system: &System, times: usize, ask: impl Fn() -> Ask) -> BTreeMap<Ipv4Addr, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(who(&send(system, ask()).await)).or_default() += 1;
    }
    counts
}

/// The share of the answers that came from these, in percent.
fn share(counts: &BTreeMap<Ipv4Addr, usize>, of: &[Ipv4Addr]) -> f64 {
    let all: usize = counts.values().sum();
    let part: usize = of.iter().filter_map(|address| counts.get(address)).sum();
    100.0 * part as f64 / all as f64
}

// === routing ===

fn split(small: u32, large: u32) -> Value {
    let mut route = model_route("split", "split", "small");
    route["spec"]["rules"][0]["targetModels"] = json!([
        {"modelServerName": "small", "weight": small}, {"modelServerName": "large", "weight": large},
    ]);
    route
}

fn routing(filter: Filter) -> Options {
    let mut rules = model_route("llama", "llama", "small");
    let to = |server: &str| json!([{"modelServerName": server}]);
    rules["spec"]["rules"] = json!([
        {"name": "premium", "modelMatch": {"headers": {"user-type": {"exact": "premium"}}}, "targetModels": to("large")},
        {"name": "default", "targetModels": to("small")},
        {"name": "late", "targetModels": to("large")},
    ]);
    Options {
        groups: vec![
            Group::instant("small", "qwen/1.5b", 1),
            Group::instant("large", "qwen/7b", 1),
        ],
        routes: vec![rules, split(70, 30), model_route("z-older", "twin", "small")],
        filter,
        ..on_a_cluster(1)
    }
}

async fn rules_and_weights(system: &mut System) {
    let premium = |value: &str| question("llama").header("user-type", value);
    assert_eq!(group_of(system, premium("premium")).await, "large");
    assert_eq!(
        group_of(system, question("llama")).await,
        "small",
        "the first that matches"
    );
    assert_eq!(group_of(system, premium("basic")).await, "small");
    assert_eq!(group_of(system, premium("")).await, "small");
    for (name, text) in [("nobody", "route not found"), ("lora-nobody", "route not found")] {
        let unknown = send(system, question(name)).await;
        assert_eq!(unknown.status, 404);
        assert!(unknown.text().contains(text), "{}", unknown.text());
    }

    let small = system.fleet().addresses("small");
    wait_share(system, &small, 70.0).await;
    // 50:30 are 62.5 %; the update has arrived when a route that was applied after it is served.
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[split(50, 30)]).await.unwrap();
    cluster.apply(&[model_route("after", "after", "small")]).await.unwrap();
    wait_served(system, "after").await;
    wait_share(system, &small, 62.5).await;
}

/// So many percent of 500 answers come from these, give or take 5; one try in fifty is outside by chance, five in a row are not.
async fn wait_share(system: &System, of: &[Ipv4Addr], percent: f64) {
    let mut seen = Vec::new();
    for _ in 0..5 {
        let counts = spread(system, 500, || question("split")).await;
        let share = share(&counts, of);
        if (share - percent).abs() <= 5.0 {
            return;
        }
        seen.push(share);
    }
    panic!("{percent} % were expected: {seen:?}");
}

async fn wait_served(system: &System, model: &str) {
    let mut in_a_row = 0;
    wait_until(&format!("{model} to be served"), PATIENCE, async || {
        let served = send(system, question(model)).await.status == 200;
        in_a_row = if served { in_a_row + 1 } else { 0 };
        in_a_row >= 4
    })
    .await
    .unwrap();
}

async fn the_oldest_of_two_routes_decides(system: &mut System) {
    assert_eq!(group_of(system, question("twin")).await, "small");
    // Times of creation are whole seconds: the next object is to be younger.
    let second = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let begun = second();
    wait_until("the next second", PATIENCE, async || second() > begun)
        .await
        .unwrap();
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route("a-newer", "twin", "large")]).await.unwrap();
    cluster
        .apply(&[model_route("after-twins", "after-twins", "small")])
        .await
        .unwrap();
    wait_served(system, "after-twins").await;
    assert_eq!(group_of(system, question("twin")).await, "small", "the older");
    system
        .kubernetes()
        .unwrap()
        .delete("modelroute/z-older", "default")
        .await
        .unwrap();
    wait_until("the newer to take over", PATIENCE, async || {
        let answer = send(system, question("twin")).await;
        answer.status == 200 && system.fleet().addresses("large").contains(&who(&answer))
    })
    .await
    .unwrap();
}

async fn an_empty_adapter_is_refused_by_the_api_server(system: &mut System) {
    let mut route = model_route("dry", "dry", "small");
    let cluster = system.kubernetes().unwrap();
    let dry_run = ["apply", "--dry-run=server", "-f", "-"];
    cluster.kubectl(&dry_run, &route.to_string()).await.unwrap();
    route["spec"]["loraAdapters"] = json!([""]);
    let refused = cluster
        .kubectl(&dry_run, &route.to_string())
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("loraAdapters"), "{refused}");
}

/// A counter of whoever decides, summed over the series whose labels hold all of these: of both ext_proc servers, and of the controller, which
/// shows what the wasm filter counts.
async fn count(system: &mut System, metric: &str, labels: &[&str]) -> f64 {
    let mut sum = 0.0;
    let mut pages = vec![system.controller().page("/metrics").await.unwrap()];
    for replica in 0..2 {
        pages.push(system.ext_proc(replica).unwrap().page("/metrics").await.unwrap());
    }
    for page in pages {
        let series = page.lines().filter(|line| line.starts_with(metric));
        let series = series.filter(|line| labels.iter().all(|label| line.contains(label)));
        sum += series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    sum
}

/// On a path that nobody asks otherwise: what was asked before may be told late.
async fn requests_are_counted(system: &mut System) {
    let path = "/v1/completions";
    let ask = |model| Ask::post(path, json!({"model": model, "prompt": "hello"}).to_string());
    let good = ["model=\"llama\"", "path=\"/v1/completions\"", "status_code=\"200\""];
    let lost = [
        "error_type=\"route_not_found\"",
        "model=\"unknown\"",
        "path=\"/v1/completions\"",
        "status_code=\"404\"",
    ];
    let requests = "kthena_router_requests_total{";
    let durations = "kthena_router_request_duration_seconds_count{";
    let before = [
        count(system, requests, &good).await,
        count(system, durations, &good).await,
        count(system, requests, &lost).await,
    ];
    for _ in 0..3 {
        send(system, ask("llama")).await;
    }
    send(system, ask("nobody")).await;
    let mut after = before;
    wait_until("the requests to be counted", PATIENCE, async || {
        after = [
            count(system, requests, &good).await,
            count(system, durations, &good).await,
            count(system, requests, &lost).await,
        ];
        after[0] >= before[0] + 3.0 && after[1] >= before[1] + 3.0 && after[2] > before[2]
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {before:?}, {after:?}"));
    assert_eq!(after, [before[0] + 3.0, before[1] + 3.0, before[2] + 1.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_decide_through_ext_proc() {
    let mut system = start(routing(Filter::ExtProc)).await;
    rules_and_weights(&mut system).await;
    the_oldest_of_two_routes_decides(&mut system).await;
    an_empty_adapter_is_refused_by_the_api_server(&mut system).await;
    requests_are_counted(&mut system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_decide_through_the_wasm_filter() {
    let mut system = start(routing(wasm())).await;
    rules_and_weights(&mut system).await;
    the_oldest_of_two_routes_decides(&mut system).await;
    an_empty_adapter_is_refused_by_the_api_server(&mut system).await;
    requests_are_counted(&mut system).await;
}

// === scheduling ===

/// A profile of these plugins alone.
fn only(filters: Value, score: &str) -> Value {
    json!({"plugins": {"Filter": {"enabled": filters}, "Score": {"enabled": [{"name": score, "weight": 1}]}}})
}

fn group(name: &str, endpoints: u8, figures: &str, scheduling: Value) -> Group {
    Group {
        figures: format!("profile=test-nodelay{figures}"),
        scheduling: Some(scheduling),
        ..Group::instant(name, &format!("meta/{name}"), endpoints)
    }
}

/// Model servers whose steps take so many milliseconds.
fn paced(name: &str, endpoints: u8, step_ms: u32) -> Group {
    Group {
        figures: format!("profile=test-nodelay,step_ms={step_ms}"),
        ..Group::instant(name, "meta/mixed", endpoints)
    }
}

/// A ModelServer over the pods that are labelled `set: <name>`.
fn over_set(name: &str, model: &str, port: u16, scheduling: Value) -> Value {
    let mut server = model_server(name, model, port);
    server["spec"]["workloadSelector"]["matchLabels"] = json!({"set": name});
    server["spec"]["scheduling"] = scheduling;
    server
}

fn scheduling(filter: Filter) -> Options {
    let nothing = json!([]);
    let with_adapter = Group {
        adapters: vec!["sql".to_owned()],
        ..Group::instant("with", "meta/base", 1)
    };
    let groups = vec![
        group("prefix", 3, "", only(nothing.clone(), "prefix-cache")),
        group("random", 3, "", only(nothing.clone(), "random")),
        group(
            "queue",
            3,
            ",step_ms=20,max_num_seqs=1",
            only(json!(["least-request"]), "least-request"),
        ),
        group("cache", 3, ",step_ms=50,kv_tokens=4096", only(nothing, "gpu-usage")),
        with_adapter,
        Group::instant("without", "meta/base", 2),
        paced("fast", 3, 5),
        paced("slow", 1, 100),
    ];
    let named = ["prefix", "random", "queue", "cache"];
    Options {
        groups,
        routes: named.iter().map(|name| model_route(name, name, name)).collect(),
        filter,
        ..on_a_cluster(1)
    }
}

async fn prefix_cache_stays_where_it_was(system: &System) {
    let same = || question("prefix");
    spread(system, 30, same).await;
    let counts = spread(system, 200, same).await;
    let most = counts.values().max().copied().unwrap_or_default();
    assert!(most >= 180, "{counts:?}");
}

async fn random_is_even(system: &System) {
    let counts = spread(system, 600, || question("random")).await;
    for address in system.fleet().addresses("random") {
        let share = share(&counts, &[address]);
        assert!((23.3..=43.3).contains(&share), "{counts:?}");
    }
}

/// Keeps model servers busy past Envoy, until this is dropped.
struct Busy(Vec<tokio::task::JoinHandle<()>>);

impl Busy {
    fn start(system: &System, group: &str, servers: &[Ipv4Addr], requests: usize) -> Self {
        // Two thirds of the cache of the group that has little of it.
        let prompt = "Tell me all of it, from the beginning. ".repeat(288);
        let body = json!({"model": format!("meta/{group}"), "prompt": prompt, "max_tokens": 1000, "ignore_eos": true});
        let mut tasks = Vec::new();
        for server in servers {
            for _ in 0..requests {
                let client = Client::http1((*server, system.fleet().port()).into());
                let mut ask = Ask::post("/v1/completions", body.to_string());
                ask.within = Duration::from_secs(120);
                tasks.push(tokio::spawn(async move {
                    let _ = client.send(ask).await;
                }));
            }
        }
        Self(tasks)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Waits until the filters know this of exactly these of a group's pods.
async fn wait_seen(system: &System, group: &str, busy: &[Ipv4Addr], is_busy: impl Fn(&Value) -> bool) {
    let mut seen: Vec<Value> = Vec::new();
    wait_until(&format!("{busy:?} to be seen busy"), PATIENCE, async || {
        let page = system.debug(Part::ExtProc(0), "/debug/config_dump/pods").await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let pods = page["pods"].as_array().cloned().unwrap_or_default();
        let of_group = |pod: &&Value| {
            pod["name"]
                .as_str()
                .unwrap_or_default()
                .starts_with(&format!("{group}-"))
        };
        seen = pods.iter().filter(of_group).map(|pod| pod["metrics"].clone()).collect();
        seen.iter().filter(|metrics| is_busy(metrics)).count() == busy.len()
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
}

async fn the_idle_one_is_chosen(system: &System) {
    let all = system.fleet().addresses("queue");
    let _busy = Busy::start(system, "queue", &all[..2], 4);
    wait_seen(system, "queue", &all[..2], |metrics| {
        metrics["requestWaitingNum"]
            .as_f64()
            .is_some_and(|waiting| waiting >= 1.0)
    })
    .await;
    let counts = spread(system, 40, || question("queue")).await;
    assert!(share(&counts, &all[2..]) >= 90.0, "{counts:?}");
}

/// Up to one half, a filled cache costs nothing here: what is hot is fuller than that.
async fn the_cool_one_is_chosen(system: &System) {
    let all = system.fleet().addresses("cache");
    let _busy = Busy::start(system, "cache", &all[..2], 1);
    wait_seen(system, "cache", &all[..2], |metrics| {
        metrics["gpuCacheUsage"].as_f64().is_some_and(|usage| usage >= 0.65)
    })
    .await;
    let counts = spread(system, 40, || question("cache")).await;
    assert!(share(&counts, &all[2..]) >= 90.0, "{counts:?}");
}

async fn adapters_and_latency_count(system: &mut System) {
    let port = system.fleet().port();
    let cluster = system.kubernetes().unwrap();
    for (set, pods) in [("lora", "app in (with,without)"), ("latency", "app in (fast,slow)")] {
        cluster
            .kubectl(&["label", "pods", "-l", pods, &format!("set={set}")], "")
            .await
            .unwrap();
    }
    let mut lora = model_route("lora", "base", "lora");
    lora["spec"]["loraAdapters"] = json!(["sql"]);
    let objects = [
        over_set("lora", "meta/base", port, only(json!(["lora-affinity"]), "random")),
        lora,
        over_set("latency", "meta/mixed", port, only(json!([]), "least-latency")),
        model_route("latency", "latency", "latency"),
    ];
    cluster.apply(&objects).await.unwrap();
    wait_served(system, "latency").await;
    wait_served(system, "sql").await;

    let with = system.fleet().addresses("with");
    let counts = spread(system, 60, || question("sql")).await;
    assert_eq!(share(&counts, &with), 100.0, "{counts:?}");

    // Until the engines have counted enough to tell.
    spread(system, 60, || question("latency")).await;
    let fast = system.fleet().addresses("fast");
    let counts = spread(system, 100, || question("latency")).await;
    assert!(share(&counts, &fast) >= 90.0, "{counts:?}");
}

async fn plugins_decide(filter: Filter) {
    let mut system = start(scheduling(filter)).await;
    prefix_cache_stays_where_it_was(&system).await;
    random_is_even(&system).await;
    the_idle_one_is_chosen(&system).await;
    the_cool_one_is_chosen(&system).await;
    adapters_and_latency_count(&mut system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_decide_through_ext_proc() {
    plugins_decide(Filter::ExtProc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_decide_through_the_wasm_filter() {
    plugins_decide(wasm()).await;
}
