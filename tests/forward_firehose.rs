//! The Firehose uplink against a Firehose that misbehaves, and against moto.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/firehose.rs"]
mod firehose;
#[allow(dead_code, reason = "other targets use the rest")]
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/venv.rs"]
mod venv;

use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use firehose::{Mood, Server};
use fogbeat::config::{self, Encoding};
use fogbeat::forward::firehose::Firehose;
use fogbeat::forward::{Delivery, Failure, Member, Uplink as _};
use fogbeat::journal::{Bounds, Seq};
use venv::{Moto, python};

fn uplink(url: &str, timeout: Duration) -> Firehose {
    let config = config::Firehose {
        stream: "heart-rate".into(),
        region: Some("eu-west-1".into()),
        endpoint_url: Some(url.into()),
        timeout,
        ca: None,
        proxy: None,
        proxy_credentials_file: None,
        credentials: None,
    };
    let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "test");
    Firehose::with_credentials(&config, SharedCredentialsProvider::new(credentials))
}

fn member(first: u8, size: usize) -> Member {
    Member {
        bounds: Bounds {
            from: Seq(u64::from(first)),
            to: Seq(u64::from(first) + 1),
            fixed_ms: 0,
            clock: 0,
            guessed: false,
        },
        spool: "sp".into(),
        first: Seq(u64::from(first)),
        last: Seq(u64::from(first)),
        encoding: Encoding::Gzip,
        readings: 1,
        lines: 1,
        text_bytes: size as u64,
        bytes: Bytes::from(vec![first; size]),
    }
}

fn members(count: u8) -> Vec<Member> {
    (0..count).map(|first| member(first, 100)).collect()
}

const PATIENT: Duration = Duration::from_secs(20);

/// One delivery of three members to a server in this mood.
async fn deliver(mood: Mood) -> (Vec<Delivery>, Server) {
    let server = Server::start([mood]).await;
    let answers = uplink(&server.url(), PATIENT).deliver(&members(3)).await;
    assert_eq!(answers.len(), 3);
    (answers, server)
}

fn retry(answer: &Delivery) -> &Failure {
    let Delivery::Retry(failure) = answer else { panic!("{answer:?}") };
    failure
}

fn stuck(answer: &Delivery) -> &Failure {
    let Delivery::Stuck(failure) = answer else { panic!("{answer:?}") };
    assert!(failure.remedy.is_some(), "{failure:?}");
    failure
}

#[tokio::test]
async fn one_member_is_one_record_byte_for_byte() {
    let (answers, server) = deliver(Mood::Fine).await;
    assert_eq!(answers, vec![Delivery::Confirmed; 3]);
    let sent: Vec<Vec<u8>> = members(3).iter().map(|member| member.bytes.to_vec()).collect();
    assert_eq!(server.seen.lock().unwrap().stored, sent);
}

#[tokio::test]
async fn a_partial_failure_names_exactly_the_records_that_failed() {
    let (answers, server) = deliver(Mood::Partial(vec![1])).await;
    assert_eq!((&answers[0], &answers[2]), (&Delivery::Confirmed, &Delivery::Confirmed));
    assert_eq!(retry(&answers[1]).cause, "record_failed");
    assert_eq!(server.seen.lock().unwrap().stored.len(), 2);
}

#[tokio::test]
async fn what_may_mend_itself_is_for_another_attempt_and_the_sdk_makes_none() {
    for (code, status, cause) in [
        ("ThrottlingException", 400, "throttled"),
        ("LimitExceededException", 400, "throttled"),
        ("ServiceUnavailableException", 503, "unavailable"),
        ("InternalFailure", 500, "server_error"),
        ("ExpiredTokenException", 400, "expired_token"),
        ("SomethingNew", 400, "server_error"),
    ] {
        let (answers, server) = deliver(Mood::Error(code, status)).await;
        answers.iter().for_each(|answer| assert_eq!(retry(answer).cause, cause, "{code}"));
        assert_eq!(server.seen.lock().unwrap().requests.len(), 1, "{code}: one attempt");
    }
}

#[tokio::test]
async fn what_cannot_succeed_names_the_remedy() {
    for (code, cause, remedy) in [
        ("ResourceNotFoundException", "unknown_stream", "create the stream heart-rate in eu-west-1"),
        ("AccessDeniedException", "access_denied", "firehose:PutRecordBatch"),
        ("UnrecognizedClientException", "credentials", "keys"),
        ("InvalidSignatureException", "credentials", "clock"),
        ("InvalidKMSResourceException", "kms", "KMS"),
        ("InvalidSourceException", "wrong_source", "Direct PUT"),
    ] {
        let (answers, _) = deliver(Mood::Error(code, 400)).await;
        for answer in &answers {
            let failure = stuck(answer);
            assert_eq!(failure.cause, cause);
            assert!(failure.remedy.as_ref().unwrap().contains(remedy), "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_connection_lost_after_the_store_counts_as_not_delivered() {
    let (answers, server) = deliver(Mood::StoreAndDrop).await;
    answers.iter().for_each(|answer| assert_eq!(retry(answer).cause, "connection"));
    let seen = server.seen.lock().unwrap();
    assert_eq!((seen.requests.len(), seen.stored.len()), (1, 3), "the SDK did not send it again");
}

#[tokio::test]
async fn a_lost_connection_and_a_closed_port_are_for_another_attempt() {
    let (answers, server) = deliver(Mood::Drop).await;
    answers.iter().for_each(|answer| assert_eq!(retry(answer).cause, "connection"));
    let mut uplink = uplink(&server.url(), PATIENT);
    assert_eq!(uplink.deliver(&members(1)).await, [Delivery::Confirmed]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answers = self::uplink(&format!("http://{closed}"), PATIENT).deliver(&members(1)).await;
    assert_eq!(retry(&answers[0]).cause, "connection");
}

#[tokio::test]
async fn a_server_that_never_answers_is_left_in_time() {
    let server = Server::start([Mood::Stall]).await;
    let started = Instant::now();
    let mut uplink = uplink(&server.url(), Duration::from_millis(500));
    let answers = uplink.deliver(&members(2)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    answers.iter().for_each(|answer| assert_eq!(retry(answer).cause, "timeout"));
    assert_eq!(uplink.deliver(&members(2)).await, vec![Delivery::Confirmed; 2]);
}

#[tokio::test]
async fn answers_that_make_no_sense_confirm_nothing() {
    for mood in [Mood::Garbage, Mood::Short] {
        let (answers, _) = deliver(mood).await;
        answers.iter().for_each(|answer| assert_eq!(retry(answer).cause, "malformed_answer"));
    }
}

#[tokio::test]
async fn one_refused_record_does_not_hold_the_others_back() {
    let server = Server::start([]).await;
    server.always(Mood::Poison(1));
    let answers = uplink(&server.url(), PATIENT).deliver(&members(3)).await;
    assert_eq!((&answers[0], &answers[2]), (&Delivery::Confirmed, &Delivery::Confirmed));
    assert_eq!(stuck(&answers[1]).cause, "refused");
    assert_eq!(server.seen.lock().unwrap().stored.len(), 2);
}

#[tokio::test]
async fn a_record_above_the_limit_is_refused_and_not_lost_from_sight() {
    let server = Server::start([]).await;
    let mut uplink = uplink(&server.url(), PATIENT);
    let limit = uplink.limits().member_bytes;
    assert_eq!(uplink.deliver(&[member(1, limit)]).await, [Delivery::Confirmed]);
    assert_eq!(stuck(&uplink.deliver(&[member(1, limit + 1)]).await[0]).cause, "refused");
}

#[tokio::test]
async fn without_credentials_it_says_what_is_missing() {
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{ProvideCredentials, future};
    #[derive(Debug)]
    struct Nobody;
    impl ProvideCredentials for Nobody {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("nobody gave any")))
        }
    }
    let server = Server::start([]).await;
    let config = config::Firehose {
        stream: "heart-rate".into(),
        region: Some("eu-west-1".into()),
        endpoint_url: Some(server.url()),
        timeout: PATIENT,
        ca: None,
        proxy: None,
        proxy_credentials_file: None,
        credentials: None,
    };
    let mut uplink = Firehose::with_credentials(&config, SharedCredentialsProvider::new(Nobody));
    let answers = uplink.deliver(&members(1)).await;
    let failure = stuck(&answers[0]);
    assert_eq!(failure.cause, "credentials");
    assert!(failure.remedy.as_ref().unwrap().contains("AWS_ACCESS_KEY_ID"));
    assert!(failure.message.contains("nobody gave any") && !failure.message.contains('{'), "{failure:?}");
}

/// Through moto's Firehose into its S3: the object is the members, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moto_stores_the_members_byte_for_byte() {
    let moto = tokio::task::spawn_blocking(Moto::start).await.unwrap();
    let url = format!("http://{}", moto.address);
    python(
        "import boto3, sys
s = boto3.session.Session('a', 'b', region_name='eu-west-1')
s3 = s.client('s3', endpoint_url=sys.argv[1])
s3.create_bucket(Bucket='lake', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
s.client('firehose', endpoint_url=sys.argv[1]).create_delivery_stream(
  DeliveryStreamName='heart-rate', DeliveryStreamType='DirectPut', ExtendedS3DestinationConfiguration={
  'RoleARN': 'arn:aws:iam::123456789012:role/r', 'BucketARN': 'arn:aws:s3:::lake'})",
        &[&url],
    );
    let sent: Vec<Member> = (0..20).map(|first| member(first, 40_000)).collect();
    assert_eq!(uplink(&url, PATIENT).deliver(&sent).await, vec![Delivery::Confirmed; 20]);
    let stored = python(
        "import boto3, sys
s3 = boto3.client('s3', 'eu-west-1', endpoint_url=sys.argv[1], aws_access_key_id='a', aws_secret_access_key='b')
keys = [o['Key'] for o in s3.list_objects_v2(Bucket='lake')['Contents']]
print(''.join(s3.get_object(Bucket='lake', Key=k)['Body'].read().hex() for k in keys))",
        &[&url],
    );
    let expected: Vec<u8> = sent.iter().flat_map(|member| member.bytes.to_vec()).collect();
    assert!(stored.trim() == hex::encode(expected), "not the bytes that were sent");
    let config = config::Firehose {
        stream: "no-such-stream".into(),
        region: Some("eu-west-1".into()),
        endpoint_url: Some(url),
        timeout: PATIENT,
        ca: None,
        proxy: None,
        proxy_credentials_file: None,
        credentials: None,
    };
    let credentials = Credentials::new("a", "b", None, None, "test");
    let mut wrong = Firehose::with_credentials(&config, SharedCredentialsProvider::new(credentials));
    assert_eq!(stuck(&wrong.deliver(&members(1)).await[0]).cause, "unknown_stream");
}

/// The proxy looks the name up: nothing goes out past it.
#[tokio::test]
async fn requests_go_through_a_proxy_of_either_kind() {
    use std::sync::atomic::Ordering;
    let server = Server::start([Mood::Partial(vec![1])]).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    for kind in [proxy::Kind::Http, proxy::Kind::Socks5] {
        let proxy = proxy::Proxy::start(kind);
        std::fs::write(secret.path(), proxy::LOGIN).unwrap();
        let mut config = config::Firehose {
            stream: "heart-rate".into(),
            region: Some("eu-west-1".into()),
            endpoint_url: Some(format!("http://far.test:{}", server.address.port())),
            timeout: PATIENT,
            ca: None,
            proxy: Some(proxy.url(kind)),
            proxy_credentials_file: Some(secret.path().to_owned()),
            credentials: None,
        };
        let credentials = || SharedCredentialsProvider::new(Credentials::new("a", "b", None, None, "test"));
        let before = server.seen.lock().unwrap().stored.len();
        let mut uplink = Firehose::with_credentials(&config, credentials());
        let answers = uplink.deliver(&members(3)).await;
        let failed = answers.iter().filter(|answer| **answer != Delivery::Confirmed).count();
        assert_eq!(server.seen.lock().unwrap().stored.len(), before + 3 - failed, "{answers:?}");
        assert!(failed <= 1, "{answers:?}");
        assert_eq!(proxy.passed.load(Ordering::Relaxed), 1);
        // A password that is wrong, and put right under the running uplink.
        std::fs::write(secret.path(), "gateway:wrong").unwrap();
        config.proxy_credentials_file = Some(secret.path().to_owned());
        let mut uplink = Firehose::with_credentials(&config, credentials());
        let answers = uplink.deliver(&members(1)).await;
        let told = retry(&answers[0]);
        assert_eq!(told.cause, "proxy");
        assert!(told.remedy.as_ref().unwrap().contains("[[uplink]].proxy, its credentials"), "{told:?}");
        assert!(proxy.refused.load(Ordering::Relaxed) > 0);
        std::fs::write(secret.path(), proxy::LOGIN).unwrap();
        assert_eq!(uplink.deliver(&members(1)).await, [Delivery::Confirmed]);
    }
}
