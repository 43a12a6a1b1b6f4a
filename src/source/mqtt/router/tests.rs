use super::*;
use crate::source::mqtt::message::{Head, client_topic};
use crate::source::mqtt::publish::Qos;

fn message(topic: &str, payload: &[u8], retain: bool) -> Message {
    let head = Head { qos: Qos::AtLeastOnce, retain, origin: 1, expires: 0, properties: &[] };
    Message::new(topic.as_bytes(), payload, head)
}

fn start(topics: usize, metrics: Metrics) -> std::io::Result<Hub> {
    Hub::start(HubLimits { subscribers: 5, filters: 4, topics }, metrics)
}

async fn next(link: &mut Link) -> Result<Bytes, HubError> {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), link.next()).await.unwrap();
        if let Some((topic, _)) = next? {
            return Ok(client_topic(&topic));
        }
    }
}

#[tokio::test]
async fn without_subscribers_there_is_no_router() {
    let hub = start(10, Metrics::default()).unwrap();
    assert!(!hub.wanted());
    hub.relay(vec![message("a", b"1", true)]);
    let deadline = Instant::now() + Duration::from_secs(5);
    while hub.retained("#").is_empty() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(locked(&hub.shared.router).is_none());
}

#[tokio::test]
async fn a_dead_router_is_replaced_and_retained_messages_stay() {
    let metrics = Metrics::default();
    let hub = start(10, metrics.clone()).unwrap();
    let mut link = hub.attach().await.unwrap();
    link.subscribe("#").await.unwrap();
    hub.relay(vec![message("a", b"1", true)]);
    assert_eq!(next(&mut link).await.unwrap(), "a");

    let mut generation = hub.generation();
    hub.poison();
    assert_eq!(next(&mut link).await, Err(HubError::Dead));
    let replaced = tokio::time::timeout(Duration::from_secs(10), generation.changed());
    replaced.await.unwrap().unwrap();
    assert!(!link.alive());
    drop(link);

    let mut link = hub.attach().await.unwrap();
    link.subscribe("b/+").await.unwrap();
    hub.relay(vec![message("b/c", b"1", false)]);
    assert_eq!(next(&mut link).await.unwrap(), "b/c");
    assert_eq!(hub.retained("a").len(), 1);
    assert_eq!(metrics.router_restarts.get(), 1);
}

#[tokio::test]
async fn links_come_and_go_under_load() {
    let hub = start(10, Metrics::default()).unwrap();
    for _ in 0..300 {
        let mut link = hub.attach().await.unwrap();
        link.subscribe("#").await.unwrap();
        hub.relay((0..300).map(|_| message("a", b"1", false)).collect());
        assert_eq!(next(&mut link).await.unwrap(), "a");
    }
    assert!(locked(&hub.shared.links).next <= 27, "names are used again");
}

#[tokio::test]
async fn retained_messages_are_bounded() {
    let metrics = Metrics::default();
    let hub = start(3, metrics.clone()).unwrap();
    hub.relay((0..10).map(|n| message(&format!("t{n}"), b"1", true)).collect());
    let deadline = Instant::now() + Duration::from_secs(5);
    while metrics.relay_dropped.get() < 7 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(hub.retained("#").len(), 3);
}

#[tokio::test]
async fn subscribers_and_filters_are_bounded_and_given_back() {
    let hub = start(10, Metrics::default()).unwrap();
    let mut links = Vec::new();
    for _ in 0..5 {
        links.push(hub.attach().await.unwrap());
    }
    assert!(matches!(hub.attach().await, Err(HubError::Subscribers)));
    for (n, link) in links.iter_mut().take(4).enumerate() {
        link.subscribe(&format!("f{n}")).await.unwrap();
    }
    assert_eq!(links[4].subscribe("f4").await, Err(HubError::Filters));
    links[4].subscribe("f3").await.unwrap();
    assert!(!hub.shared.stale.load(Ordering::Relaxed), "all of them are needed");
    links.remove(0);
    let mut last = hub.attach().await.unwrap();
    assert_eq!(last.subscribe("f4").await, Err(HubError::Filters));
    assert!(hub.shared.stale.load(Ordering::Relaxed), "the router keeps a filter that nobody has");
}
