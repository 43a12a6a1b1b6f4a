//! The template: what its parts say, what cfn-lint says, what the services make of it (in moto), and what its functions do.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::venv::{Moto, program};
use super::{fogbeat, project, run, script};

#[test]
fn the_template_is_what_its_parts_say_and_the_binary_prints_it() {
    run(&script("stack.py"), &["--check"]);
    let printed = fogbeat(&["cloud", "template"]);
    assert_eq!(printed, std::fs::read_to_string(project("config/aws/stack.yaml")).unwrap());
}

/// Fields and their types, as README tells them.
fn published() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(project("README.md")).unwrap();
    let (_, rest) = readme.split_once("| field | Glue / Athena type | meaning |").unwrap();
    let table = rest.split("\n\n").next().unwrap();
    let mut found = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let names: Vec<&str> = cells[0].split('`').skip(1).step_by(2).collect();
        let kinds = cells[1].replace("&lt;", "<").replace("&gt;", ">");
        let kinds: Vec<&str> = if names.len() == 1 { vec![&kinds] } else { kinds.split(", ").collect() };
        for (n, name) in names.iter().enumerate() {
            found.push(((*name).to_owned(), kinds.get(n).unwrap_or(&kinds[0]).to_string()));
        }
    }
    found
}

#[test]
fn the_table_has_the_published_lines_fields() {
    let columns = run(&script("stack.py"), &["--columns"]);
    let columns: Vec<(String, String)> = serde_json::from_str(&columns).unwrap();
    assert_eq!(columns, published());
}

/// What cfn-lint complains of, with a word for each finding.
fn lint(template: &std::path::Path) -> String {
    let output = Command::new(program("cfn-lint"))
        .args([
            "--include-checks",
            "I",
            "--regions",
            "us-east-1",
            "eu-west-1",
            "eu-central-1",
            "--format",
            "parseable",
        ])
        .arg("--template")
        .arg(template)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[test]
fn cfn_lint_finds_nothing_and_would() {
    let template = project("config/aws/stack.yaml");
    assert_eq!(lint(&template), "");
    let root = tempfile::tempdir().unwrap();
    let doctored = root.path().join("stack.yaml");
    let text = std::fs::read_to_string(template).unwrap();
    for (sound, broken) in [
        ("FileExtension: .json.gz", "FileExtention: .json.gz"),
        ("!GetAtt StreamRole.Arn", "!GetAtt StreamRole.Ann"),
        ("SizeInMBs: !Ref BufferMiB", "SizeInMBs: 4000"),
    ] {
        assert!(text.contains(sound), "{sound}");
        std::fs::write(&doctored, text.replacen(sound, broken, 1)).unwrap();
        assert_ne!(lint(&doctored), "", "{broken}");
    }
}

#[test]
fn athena_takes_the_statements() {
    assert_eq!(run(&script("dialect.py"), &[]), "");
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("bad.sql");
    for bad in [
        "SELECT id FROM",
        "SELECT colour FROM readings",
        "SELECT id::VARCHAR FROM readings",
        "SELECT strftime(time, '%Y') FROM readings",
        "SELECT list_sum(rr_ms) FROM readings",
        "SELECT DISTINCT ON (id) id FROM readings",
    ] {
        std::fs::write(&file, format!("-- bad\n{bad}\n")).unwrap();
        assert_ne!(run(&script("dialect.py"), &[file.to_str().unwrap()]), "", "{bad}");
    }
}

fn facts(parameters: &[&str]) -> Value {
    let moto = Moto::start();
    let url = format!("http://{}", moto.address);
    let mut arguments = vec![url.as_str(), "SiteName=gym"];
    arguments.extend(parameters);
    serde_json::from_str(&run(&script("facts.py"), &arguments)).unwrap()
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_services_make_of_it_what_was_meant() {
    let user = "QuickSightUser=arn:aws:quicksight:eu-west-1:123456789012:user/default/me";
    let facts = facts(&["Path=both", user, "AlertEmail=me@example.org"]);
    // moto has no such API; everything else was made.
    assert_eq!(facts["skipped"], json!(["Provisioning"]));
    assert_eq!(facts["kinds"].as_object().unwrap().len(), 42);

    let stream = &facts["stream"];
    assert_eq!(stream["CompressionFormat"], "UNCOMPRESSED");
    assert_eq!(stream["FileExtension"], ".json.gz");
    assert_eq!(stream["BufferingHints"], json!({"IntervalInSeconds": 900, "SizeInMBs": 128}));
    assert_eq!(stream["Prefix"], "readings/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/");
    assert!(stream["ErrorOutputPrefix"].as_str().unwrap().starts_with("errors/"));
    // Anything that comes between members, or unpacks them, breaks the files.
    for never in
        ["ProcessingConfiguration", "DataFormatConversionConfiguration", "DynamicPartitioningConfiguration"]
    {
        assert!(stream[never].is_null(), "{never}");
    }

    let rule = &facts["rules"]["fogbeat_gym"];
    assert_eq!((&rule["sql"], &rule["awsIotSqlVersion"]), (&json!("SELECT *"), &json!("2016-03-23")));
    let action = &rule["actions"][0]["firehose"];
    assert_eq!(action["deliveryStreamName"], "fogbeat-gym");
    assert!(action["separator"].is_null() && action["batchMode"] != true, "{action}");
    assert!(rule["errorAction"]["s3"]["key"].as_str().unwrap().starts_with("errors/rule/"), "{rule}");
    let alarm = &facts["rules"]["fogbeat_gym_alerts"];
    assert!(alarm["actions"][0]["lambda"]["functionArn"].is_string(), "{alarm}");

    let bucket = &facts["bucket"];
    let algorithm = &bucket["encryption"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"];
    assert_eq!(algorithm, "AES256");
    assert!(bucket["public"].as_object().unwrap().values().all(|blocked| blocked == true));
    let denied: Vec<&Value> =
        bucket["policy"]["Statement"].as_array().unwrap().iter().map(|denial| &denial["Condition"]).collect();
    assert!(denied.contains(&&json!({"Bool": {"aws:SecureTransport": false}})), "{denied:?}");
    assert!(
        bucket["policy"]["Statement"].as_array().unwrap().iter().all(|denial| denial["Effect"] == "Deny")
    );
    let expires = |prefix: &str| {
        let mut rules = bucket["lifecycle"].as_array().unwrap().iter();
        rules.find(|rule| rule["Filter"]["Prefix"] == prefix).unwrap()["Expiration"]["Days"].clone()
    };
    assert_eq!((expires("readings/"), expires("athena/")), (json!(730), json!(7)));

    let lines = &facts["lines"];
    let parameters = &lines["Parameters"];
    assert_eq!(parameters["projection.enabled"], "true");
    assert_eq!(parameters["projection.dt.format"], "yyyy-MM-dd");
    assert_eq!(parameters["projection.hour.digits"], "2");
    let place = parameters["storage.location.template"].as_str().unwrap();
    assert_eq!(place, "s3://fogbeat-gym-123456789012-eu-west-1/readings/dt=${dt}/hour=${hour}/");
    for (view, fact) in facts["views"].as_object().unwrap() {
        assert_eq!(fact, &json!({"as_its_file": true, "schema": "fogbeat_gym", "columns": true}), "{view}");
    }
    let queries = facts["queries"].as_object().unwrap();
    assert_eq!(queries.len(), std::fs::read_dir(project("config/aws/queries")).unwrap().count());
    assert!(queries.values().all(|same| same == true), "{queries:?}");

    answers_alerts(&facts["alerts"]);
}

/// Alerts become notifications; what is none is left aside.
fn answers_alerts(alerts: &Value) {
    let counts = |alerts, aside| json!({"alerts": alerts, "left_aside": aside});
    let answers = [counts(1, 0), counts(2, 0), counts(0, 1), counts(0, 0), counts(0, 1)];
    assert_eq!(alerts["answers"], json!(answers));
    let told = alerts["told"].as_array().unwrap();
    assert_eq!(told.len(), 3);
    assert_eq!(told[0]["subject"], "fogbeat: high device strap-17 site gym");
    let message = told[0]["message"].as_str().unwrap();
    assert!(message.starts_with("message: above 185 for 60 s\nalert: high\nsite: gym\n"), "{message}");
    assert!(message.contains("bpm: 191\n") && message.ends_with("limit: 185"), "{message}");
    assert_eq!(told[0]["attributes"]["device"], "strap-17");
    let subject = told[2]["subject"].as_str().unwrap();
    assert!(subject.len() < 100 && subject.is_ascii() && !subject.contains('\n'), "{subject}");
}

/// Everything that anybody may do, to the letter: a gateway writes under its own name, or to its site's stream, and
/// nothing else.
#[test]
fn nobody_may_do_more_than_is_needed() {
    let facts = facts(&["Path=both"]);
    let allowed = facts["allowed"].as_object().unwrap();
    let of = |who: &str| -> BTreeSet<String> {
        let grants = allowed[who].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().replace("arn:aws:iot:eu-west-1:123456789012:", "");
        grants.map(|grant| format!("{} {}", word(&grant[0]), word(&grant[1]))).collect()
    };
    let me = "${iot:Connection.Thing.ThingName}";
    let gateway = [
        format!("iot:Connect client/{me}"),
        format!("iot:Publish topic/$aws/rules/fogbeat_gym/{me}"),
        format!("iot:Publish topic/$aws/rules/fogbeat_gym_alerts/{me}"),
        format!("iot:Publish topic/fogbeat/live/{me}/*"),
        format!("iot:Publish topic/$aws/things/{me}/shadow/name/fogbeat/get"),
        format!("iot:Publish topic/$aws/things/{me}/shadow/name/fogbeat/update"),
        format!("iot:Subscribe topicfilter/$aws/things/{me}/shadow/name/fogbeat/*"),
        format!("iot:Receive topic/$aws/things/{me}/shadow/name/fogbeat/*"),
        "iot:AssumeRoleWithCertificate rolealias/fogbeat-gym".to_owned(),
    ];
    assert_eq!(of("GatewayPolicy"), BTreeSet::from(gateway));
    let stream = "arn:aws:firehose:eu-west-1:123456789012:deliverystream/fogbeat-gym";
    assert_eq!(of("GatewayRole"), BTreeSet::from([format!("firehose:PutRecordBatch {stream}")]));
    let lake = "arn:aws:s3:::fogbeat-gym-123456789012-eu-west-1";
    assert_eq!(
        of("RuleRole"),
        BTreeSet::from([
            format!("firehose:PutRecord {stream}"),
            format!("s3:PutObject {lake}/errors/rule/*")
        ])
    );
    for (who, grants) in allowed {
        for grant in grants.as_array().unwrap() {
            let (action, resource) = (grant[0].as_str().unwrap(), grant[1].as_str().unwrap());
            assert!(!action.contains('*'), "{who}: {action}");
            // There is no narrower form of this one.
            assert!(resource != "*" || action == "iot:DescribeEndpoint", "{who}: {action} on everything");
        }
    }
}

#[test]
fn a_path_that_was_not_chosen_is_not_there() {
    let iot = facts(&["Path=iot"]);
    let who: BTreeSet<&String> = iot["allowed"].as_object().unwrap().keys().collect();
    assert!(!who.contains(&"GatewayRole".to_owned()));
    assert!(
        iot["allowed"]["GatewayPolicy"]
            .as_array()
            .unwrap()
            .iter()
            .all(|grant| grant[0] != "iot:AssumeRoleWithCertificate")
    );
    let outputs = |facts: &Value| -> BTreeSet<String> {
        let outputs = facts["stack"]["Stacks"][0]["Outputs"].as_array().unwrap().iter();
        texts(&outputs.map(|output| output["OutputKey"].clone()).collect())
    };
    assert!(outputs(&iot).contains("Rule") && !outputs(&iot).contains("Stream"));
    let firehose = facts(&["Path=firehose", "RetentionDays=0"]);
    assert!(!outputs(&firehose).contains("Rule") && outputs(&firehose).contains("Stream"));
    assert!(firehose["rules"].get("fogbeat_gym").is_none());
    let kept = firehose["bucket"]["lifecycle"].as_array().unwrap();
    assert!(kept.iter().any(|rule| rule["ID"] == "readings" && rule["Status"] == "Disabled"), "{kept:?}");
}

/// From the stack's outputs to settings that a gateway takes, on both ways.
#[test]
fn a_gateway_takes_the_configuration_that_follows() {
    let facts = facts(&["Path=both"]);
    let root = tempfile::tempdir().unwrap();
    let outputs = root.path().join("stack.json");
    std::fs::write(&outputs, facts["stack"].to_string()).unwrap();
    let file = root.path().join("fogbeat.toml");
    for (path, expected) in [("firehose", "stream = \"fogbeat-gym\""), ("iot", "rule = \"fogbeat_gym\"")] {
        let outputs = outputs.to_str().unwrap();
        let settings = fogbeat(&["cloud", "config", "--stack-output", outputs, "--path", path]);
        assert!(settings.contains(expected), "{settings}");
        std::fs::write(&file, format!("[gateway]\nid = \"gym-12\"\nsite = \"gym\"\n{settings}")).unwrap();
        let taken = fogbeat(&["check", "--config", file.to_str().unwrap()]);
        assert!(taken.contains(expected), "{taken}");
        // What stands there as an offer is good as well.
        let offered =
            |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
        let wanted: String =
            settings.lines().map(|line| offered(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
        std::fs::write(&file, format!("[gateway]\nid = \"gym-12\"\nsite = \"gym\"\n{wanted}")).unwrap();
        let taken = fogbeat(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(taken.contains("batches = false"), path == "firehose", "{taken}");
    }
}
