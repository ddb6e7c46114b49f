//! Who may follow: with mutual TLS those whose certificates name a controller, without peers nobody.

use kthena_controller::metrics::kind;
use kthena_controller::peers::proto::peers_client::PeersClient;
use kthena_controller::peers::proto::{FollowRequest, news};
use kthena_controller::publish::Access;
use tonic::Code;

use crate::certificates::{Authority, Volume, connect};
use crate::filter::eventually;
use crate::pair::{listening, open_access};

#[tokio::test]
async fn with_mutual_tls_controllers_follow_each_other_and_a_filter_does_not_follow() {
    let authority = Authority::new();
    let [controller, filter] = ["controller.svc", "filter"].map(|name| authority.sign(name));
    let mut volume = Volume::new("admitted");
    volume.swap(&authority.pem, &controller);
    let access = Access {
        peer_names: vec!["controller.svc".into()],
        ..volume.access(&[])
    };
    let pair = [listening(access.clone()).await, listening(access).await];
    let places = pair.each_ref().map(|one| one.address.clone());
    for one in &pair {
        let credentials = volume.credentials("controller.svc");
        one.follow(&places.each_ref().map(String::as_str), Some(credentials));
    }
    eventually("they follow each other", || pair.iter().all(|one| one.peers() == 1)).await;

    let follow = async |identity| {
        let channel = connect(&places[0], "controller.svc", &authority, Some(identity))
            .await
            .unwrap();
        let request = FollowRequest {
            instance: "stranger".into(),
            ..FollowRequest::default()
        };
        let mut stream = PeersClient::new(channel).follow(request).await?.into_inner();
        stream.message().await
    };
    let refused = follow(&filter).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let rejected = &pair[0].metrics.publish.rejected;
    assert_eq!(rejected.get_or_create(&kind("no_peer")).get(), 1);
    let welcomed = follow(&controller).await.unwrap().unwrap();
    assert!(matches!(welcomed.message, Some(news::Message::Welcome(_))));
}

#[tokio::test]
async fn a_controller_without_peers_is_followed_by_nobody_and_one_that_calls_is_followed_in_turn() {
    let alone = listening(Access::default()).await;
    let [one, two] = [listening(open_access()).await, listening(open_access()).await];
    one.follow(&[&alone.address], None);
    let refused = || one.metrics.publish.peers.failures.get_or_create(&kind("status")).get() > 0;
    eventually("it is refused", refused).await;
    assert_eq!(alone.hub.peers().len(), 0);

    // No name tells the first where the second is.
    two.follow(&[&one.address], None);
    eventually("each follows the other", || one.peers() == 1 && two.peers() == 1).await;
    assert_eq!(one.hub.peers()[0].instance, two.hub.instance());
}
