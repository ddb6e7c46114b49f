//! Certificates between controllers are replaced while they run; a controller that a stranger vouches for is none.

use kthena_controller::metrics::kind;
use kthena_controller::publish::{Access, by_key};
use kthena_scheduler::state::proto::Hello;

use crate::certificates::{Authority, Volume, connect};
use crate::filter::{Filter, eventually};
use crate::pair::{Controller, listening};
use crate::service::{endpoints, report};

/// The name of all controllers, as a Service has one.
const NAME: &str = "controller.svc";

/// A controller whose certificates are in these files.
async fn secured(volume: &Volume) -> Controller {
    listening(Access {
        peer_names: vec![NAME.into()],
        ..volume.access(&[])
    })
    .await
}

/// A filter that trusts the authority, and has a certificate of it.
async fn filter(controller: &Controller, authority: &Authority, origin: &str) -> Filter {
    let identity = authority.sign("filter");
    let channel = connect(&controller.address, NAME, authority, Some(&identity));
    let hello = Hello {
        origin: origin.into(),
        ..Hello::default()
    };
    let mut filter = Filter::over(channel.await.unwrap(), hello).await;
    filter.until("state", |f| f.synced).await;
    filter
}

fn taken(controller: &Controller) -> u64 {
    let count = &controller.metrics.publish.certificates;
    count.get_or_create(&kind("taken")).get()
}

/// Streams to other controllers that ended, or did not come about.
fn failures(controller: &Controller) -> u64 {
    let of = |label| {
        controller
            .metrics
            .publish
            .peers
            .failures
            .get_or_create(&kind(label))
            .get()
    };
    [
        "credentials",
        "connect",
        "status",
        "broken",
        "closed",
        "no_welcome",
        "silent",
    ]
    .map(of)
    .iter()
    .sum()
}

async fn both_see(filters: [&mut Filter; 2], requests: u32) {
    for filter in filters {
        let sum = Some((requests, u64::from(requests) * 100));
        filter.until("the sum of both", |f| f.load(1) == sum).await;
    }
}

#[tokio::test]
async fn certificates_and_their_authority_are_replaced_and_the_picture_stays_one() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut volumes = ["rotated-0", "rotated-1"].map(Volume::new);
    for volume in &mut volumes {
        volume.swap(&old.pem, &old.sign(NAME));
    }
    let mut pair = [secured(&volumes[0]).await, secured(&volumes[1]).await];
    let places = pair.each_ref().map(|one| one.address.clone());
    for (one, volume) in pair.iter().zip(&volumes) {
        one.hub.set_config(by_key([endpoints(&[1])]));
        one.follow(&places.each_ref().map(String::as_str), Some(volume.credentials(NAME)));
    }
    eventually("they follow each other", || pair.iter().all(|one| one.peers() == 1)).await;
    let mut here = filter(&pair[0], &old, "here").await;
    let mut there = filter(&pair[1], &old, "there").await;
    here.send(report("here", 1, true, &[(1, 10)])).await;
    there.send(report("there", 1, true, &[(1, 5)])).await;
    both_see([&mut here, &mut there], 15).await;

    // As it is done: both authorities are trusted, then certificates are of the new one, then the old one retires.
    let both = format!("{}{}", old.pem, new.pem);
    for (step, (trusted, signs)) in [(&both, &old), (&both, &new), (&new.pem, &new)].into_iter().enumerate() {
        let done = step as u64 + 1;
        for volume in &mut volumes {
            volume.swap(trusted, &signs.sign(NAME));
        }
        eventually("the new files", || pair.iter().all(|one| taken(one) == done)).await;
        here.send(report("here", 1 + done, false, &[(1, 10 + done as u32)]))
            .await;
        both_see([&mut here, &mut there], 15 + done as u32).await;
    }
    assert_eq!(pair.each_ref().map(failures), [0, 0], "the streams went on");

    // One starts anew, and trusts the new authority alone: that it is followed shows what the other comes with now.
    pair[1].die();
    drop(there);
    eventually("the loss is known", || pair[0].peers() == 0).await;
    let again = secured(&volumes[1]).await;
    again.hub.set_config(by_key([endpoints(&[1])]));
    again.follow(&[&places[0]], Some(volumes[1].credentials(NAME)));
    eventually("they follow each other again", || {
        pair[0].peers() == 1 && again.peers() == 1
    })
    .await;
    let mut there = filter(&again, &new, "there again").await;
    there.send(report("there again", 1, true, &[(1, 7)])).await;
    // What the dead one's filter had goes.
    both_see([&mut here, &mut there], 20).await;
}

#[tokio::test]
async fn a_controller_that_a_stranger_vouches_for_is_refused_and_both_say_so() {
    let (ours, stranger) = (Authority::new(), Authority::new());
    let mut volumes = ["vouched-0", "vouched-1"].map(Volume::new);
    volumes[0].swap(&ours.pem, &ours.sign(NAME));
    // It knows us; we do not know it.
    let both = format!("{}{}", ours.pem, stranger.pem);
    volumes[1].swap(&both, &stranger.sign(NAME));
    let [one, other] = [secured(&volumes[0]).await, secured(&volumes[1]).await];
    other.follow(&[&one.address], Some(volumes[1].credentials(NAME)));
    let rejected = || one.metrics.publish.rejected.get_or_create(&kind("tls")).get();
    eventually("it is refused when it calls", || rejected() > 0).await;
    let called = [
        "could not prove who it is",
        "address=127.0.0.1:",
        "invalid peer certificate",
    ];
    one.log.says(&called).await;
    let heard = ["cannot be followed", &logged(&one), "our certificate is refused"];
    other.log.says(&heard).await;

    one.follow(&[&other.address], Some(volumes[0].credentials(NAME)));
    let refused = ["cannot be followed", &logged(&other), "invalid peer certificate"];
    one.log.says(&refused).await;
    assert!(failures(&one) > 0 && failures(&other) > 0);
    assert!(one.hub.callers_addresses().is_empty(), "it was not let in");
    assert!(one.hub.peers().is_empty() && other.hub.peers().is_empty());

    // With a certificate of ours it is one of us.
    volumes[1].swap(&both, &ours.sign(NAME));
    eventually("they follow each other", || one.peers() == 1 && other.peers() == 1).await;
}

/// As it is logged.
fn logged(controller: &Controller) -> String {
    format!("address={}", controller.address)
}
