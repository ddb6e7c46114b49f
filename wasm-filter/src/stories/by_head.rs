//! On a host that cannot hold heads, header and path decide, and the body passes as it comes.

use super::*;

fn begin(rig: &mut Rig, id: u32, path: &str, more: &[(&str, &str)]) -> Flow {
    let head = [(":method", "POST"), (":path", path), (":authority", "h")];
    rig.host.begin(id, &[&head[..], more].concat());
    rig.root.on_request_headers(id, false)
}

#[test]
fn the_head_goes_on_at_once_and_the_body_is_not_changed() {
    let mut rig = Rig::ready(&json!({"hold": "off"}));
    let flow = begin(&mut rig, 2, CHAT, &[("x-gateway-model-name", "alias")]);
    assert_eq!(flow, Flow::Continue);
    assert_eq!(header(&rig, 2, "x-kthena-cluster"), "model-server/a/s/8000");
    assert!(rig.host.request(2).rerouted);
    assert_eq!(rig.body(2, &chat("alias"), true), Flow::Continue);
    assert_eq!(String::from_utf8(rig.host.request(2).body).unwrap(), chat("alias"));
    let flow = begin(&mut rig, 3, "/m/alias/v1/completions?x", &[]);
    assert_eq!(
        (flow, header(&rig, 3, ":path")),
        (Flow::Continue, "/v1/completions?x".to_owned())
    );
    begin(&mut rig, 4, CHAT, &[]);
    assert_eq!(rig.answer(4).0, 400);
}

#[test]
fn it_is_said_once_a_host_and_in_a_metric() {
    let host = Fake::new();
    let mut rigs: Vec<_> = (0..3).map(|_| Rig::on(host.clone(), &json!({"hold": "off"}))).collect();
    let said = |host: &Fake| {
        host.log(Level::Warn)
            .iter()
            .filter(|line| line.contains("hold is off"))
            .count()
    };
    assert_eq!(said(&host), 1);
    host.pass(2_000);
    rigs.iter_mut().for_each(Rig::tick);
    assert_eq!(host.metric("kthena_hold_off"), 3);
    rigs.iter_mut().for_each(|rig| rig.root.on_end());
    assert_eq!(host.metric("kthena_hold_off"), 0);
    // Switched on and off again: it is news.
    Rig::on(host.clone(), &json!({}));
    Rig::on(host.clone(), &json!({"hold": "off"}));
    assert_eq!(said(&host), 2);
}

#[test]
fn without_state_the_head_is_held_and_then_goes_on() {
    let mut rig = Rig::new(&json!({"hold": "off"}));
    let flow = begin(&mut rig, 2, CHAT, &[("x-gateway-model-name", "alias")]);
    assert_eq!(flow, Flow::Pause);
    rig.tick();
    rig.welcome();
    rig.update(true);
    assert!(rig.host.request(2).resumed);
    assert_eq!(header(&rig, 2, "x-kthena-cluster"), "model-server/a/s/8000");
}
