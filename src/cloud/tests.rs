use super::bill::{Usage, Way, one_by_one};
use super::deploy::Deploy;
use super::outputs::{Outputs, OutputsError, Path};
use super::prices::Prices;

fn site(devices: u32, gateways: u32) -> Usage {
    Usage {
        devices,
        rate_hz: 1.0,
        gateways,
        hours_a_day: 24.0,
        max_age_s: 60.0,
        max_bytes: 2 << 20,
        retention_days: 30.0,
        live_s: None,
    }
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= expected.abs() * 0.005, "{found}, expected {expected}");
}

#[test]
fn every_price_has_its_date_and_source() {
    let prices = Prices::list().unwrap();
    assert!(prices.date.len() == 7 && prices.date.starts_with("20"), "{}", prices.date);
    for source in [&prices.firehose.source, &prices.iot.source, &prices.s3.source, &prices.athena.source] {
        assert!(source.starts_with("https://aws.amazon.com/"), "{source}");
    }
}

#[test]
fn a_record_per_reading_costs_what_everybody_says() {
    let prices = Prices::list().unwrap();
    // 5 KB each: 10^6 x 5120 / 2^30 x 0.029, and 0.30 or 1.30 for AWS IoT.
    close(one_by_one(Way::Firehose, &prices), 0.1383);
    close(one_by_one(Way::BasicIngest, &prices), 0.4383);
    close(one_by_one(Way::Broker, &prices), 1.4383);
}

#[test]
fn a_bill_by_hand() {
    let prices = Prices::list().unwrap();
    let usage = site(40, 1);
    close(usage.readings(), 103_680_000.0);
    let bill = usage.bill(Way::BasicIngest, &prices);
    // 2,400 readings: 180 + 2,400 x 12.9 = 31,140 bytes, 7 x 5 KB; 43,200 records a month.
    assert_eq!((bill.records.bytes, bill.records.billed_bytes), (31_140, 35_840));
    close(bill.records.a_month, 43_200.0);
    let usd = |what: &str| bill.lines.iter().find(|line| line.what.starts_with(what)).unwrap().usd;
    close(usd("Firehose"), 43_200.0 * 35_840.0 / 1_073_741_824.0 * 0.029);
    close(usd("AWS IoT rules"), 43_200.0 * 7.0 * 0.30 / 1e6);
    assert_eq!(usd("AWS IoT messages"), 0.0);
    close(usd("AWS IoT connections"), 43_200.0 * 0.08 / 1e6);
    // An object every 900 s.
    close(usd("S3 objects"), 2_880.0 * 0.005 / 1e3);
    close(usd("S3 storage"), 43_200.0 * 31_140.0 / 1_073_741_824.0 * 0.023);
    // 44.8 MB a day.
    let day = 1_440.0 * 31_140.0;
    close(usd("Athena, a query"), 30.0 * 35.0 * day / 1e12 * 5.0);
    close(usd("Athena, each day"), 30.0 * day / 1e12 * 5.0);
    close(bill.total_usd, bill.lines.iter().map(|line| line.usd).sum());
    let broker = usage.bill(Way::Broker, &prices);
    close(broker.usd_per_million - bill.usd_per_million, 43_200.0 * 7.0 * 1.0 / 103_680_000.0);
}

#[test]
fn a_million_readings_cost_at_most_what_is_promised() {
    let prices = Prices::list().unwrap();
    // From a gym of ten straps on at the default batch age.
    for devices in [10, 20, 40, 100, 400] {
        let usage = site(devices, 1);
        let firehose = usage.bill(Way::Firehose, &prices).usd_per_million;
        let basic = usage.bill(Way::BasicIngest, &prices).usd_per_million;
        assert!(firehose <= 0.0005, "{devices} devices: {firehose} by Firehose");
        assert!(basic <= 0.0015, "{devices} devices: {basic} by Basic Ingest");
    }
    // Fewer fill no record in a minute. In ten minutes they do.
    let mut usage = site(1, 1);
    assert!(usage.bill(Way::Firehose, &prices).usd_per_million > 0.0005);
    usage.max_age_s = 600.0;
    assert!(usage.bill(Way::Firehose, &prices).usd_per_million <= 0.0005);
    assert!(usage.bill(Way::BasicIngest, &prices).usd_per_million <= 0.0015);
}

#[test]
fn small_sites_pay_the_least_that_a_query_costs_and_messages_stay_below_their_limit() {
    let prices = Prices::list().unwrap();
    let bill = site(1, 1).bill(Way::Firehose, &prices);
    let parquet = bill.lines.iter().find(|line| line.what.starts_with("Athena, each day")).unwrap();
    close(parquet.usd, 30.0 * 10e6 / 1e12 * 5.0);
    let large = Usage { max_age_s: 3600.0, max_bytes: 64 << 20, ..site(400, 1) };
    assert!(large.records(Way::BasicIngest, &prices).bytes <= 131_072);
    assert!(large.records(Way::Firehose, &prices).bytes > 131_072);
    // Without Firehose on the gateway nothing is connected, but for a live lane.
    let line = |usage: &Usage, what: &str| {
        let bill = usage.bill(Way::Firehose, &prices);
        bill.lines.iter().find(|line| line.what.starts_with(what)).map(|line| line.usd)
    };
    assert_eq!(line(&site(40, 1), "AWS IoT connections"), Some(0.0));
    let live = Usage { live_s: Some(10.0), ..site(40, 1) };
    close(line(&live, "AWS IoT connections").unwrap(), 43_200.0 * 0.08 / 1e6);
    close(line(&live, "AWS IoT messages of the live lane").unwrap(), 40.0 * 2_592_000.0 / 10.0 / 1e6);
}

#[test]
fn the_deploy_line_is_one_line_for_a_shell() {
    let deploy = Deploy {
        site: "gym".into(),
        path: Some("both".into()),
        alert_email: Some("o'neil@example.org".into()),
        region: Some("eu-west-1".into()),
        ..Deploy::default()
    };
    assert_eq!(
        deploy.command().unwrap(),
        "fogbeat cloud template > fogbeat-gym.yaml && aws cloudformation deploy --region eu-west-1 --stack-name \
         fogbeat-gym --template-file fogbeat-gym.yaml --capabilities CAPABILITY_IAM --parameter-overrides SiteName=gym \
         Path=both 'AlertEmail=o'\\''neil@example.org'"
    );
    for bad in ["", "Gym", "7gym", "gym-12", "gym;reboot", "abcdefghijklmnopqrstu"] {
        let refused = Deploy { site: bad.into(), ..Deploy::default() };
        assert!(refused.command().unwrap_err().to_string().contains("lower case"), "{bad}");
    }
}

fn stack(outputs: &[(&str, &str)]) -> String {
    let outputs: Vec<_> = outputs
        .iter()
        .map(|(key, value)| serde_json::json!({"OutputKey": key, "OutputValue": value}))
        .collect();
    serde_json::json!({"Stacks": [{"StackName": "fogbeat-gym", "Outputs": outputs}]}).to_string()
}

const COMMON: [(&str, &str); 6] = [
    ("Region", "eu-west-1"),
    ("DataEndpoint", "abc-ats.iot.eu-west-1.amazonaws.com"),
    ("CredentialEndpoint", "abc.credentials.iot.eu-west-1.amazonaws.com"),
    ("ProvisioningTemplate", "fogbeat-gym"),
    ("Workgroup", "fogbeat-gym"),
    ("Database", "fogbeat_gym"),
];

#[test]
fn a_configuration_follows_from_the_outputs() {
    let firehose = [("Stream", "fogbeat-gym"), ("RoleAlias", "fogbeat-gym")];
    let iot = [("Rule", "fogbeat_gym")];
    let both = Outputs::parse(&stack(&[&COMMON[..], &firehose, &iot].concat())).unwrap();
    let by_firehose: toml::Table = both.config(None).unwrap().parse().unwrap();
    assert_eq!(by_firehose["uplink"][0]["stream"].as_str(), Some("fogbeat-gym"));
    assert_eq!(
        by_firehose["aws"]["iot_credentials"]["endpoint"].as_str(),
        Some("abc.credentials.iot.eu-west-1.amazonaws.com")
    );
    let by_iot: toml::Table = both.config(Some(Path::Iot)).unwrap().parse().unwrap();
    assert_eq!(by_iot["uplink"][0]["rule"].as_str(), Some("fogbeat_gym"));
    assert_eq!(by_iot["uplink"][0]["endpoint"].as_str(), Some("abc-ats.iot.eu-west-1.amazonaws.com"));
    assert!(!by_iot.contains_key("aws"));

    let only_iot = Outputs::parse(&stack(&[&COMMON[..], &iot].concat())).unwrap();
    assert_eq!(only_iot.config(None).unwrap(), both.config(Some(Path::Iot)).unwrap());
    let refused = only_iot.config(Some(Path::Firehose)).unwrap_err();
    assert!(matches!(refused, OutputsError::OtherPath { output: "Stream", path: "firehose" }), "{refused}");
    let refused = Outputs::parse(&stack(&firehose)).unwrap().config(None).unwrap_err();
    assert!(matches!(refused, OutputsError::Missing("Region")), "{refused}");
}

#[test]
fn what_is_no_stack_says_so() {
    for (text, said) in [
        ("nothing", "no JSON"),
        ("{}", "no stack"),
        (r#"{"Stacks": []}"#, "no stack"),
        (r#"{"Stacks": [{"StackName": "x"}]}"#, "no stack"),
        (r#"{"Stacks": [{}, {}]}"#, "2 stacks"),
    ] {
        let error = Outputs::parse(text).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("stack"), "{text}: {error}");
    }
}

#[test]
fn the_template_has_the_sites_time_zone_where_queries_ask_for_it() {
    use crate::cloud::{TEMPLATE, template};
    assert_eq!(template(None), TEMPLATE);
    let zoned = template(Some("Europe/Berlin"));
    let queries = TEMPLATE.matches("VALUES ('UTC')").count();
    assert!(queries >= 2);
    assert_eq!(zoned.matches("VALUES ('Europe/Berlin') -- the site's time zone").count(), queries);
    assert!(!zoned.contains("VALUES ('UTC')"));
}
