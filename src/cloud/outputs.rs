//! From the stack's outputs to what stands in a gateway's configuration. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// How the gateway is to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Path {
    /// `PutRecordBatch`, confirmed record by record
    Firehose,
    /// MQTT by Basic Ingest
    Iot,
}

/// The outputs of a stack that was made from [`super::TEMPLATE`].
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    stack: Option<String>,
    values: BTreeMap<String, String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum OutputsError {
    #[error(
        "the stack's outputs are no JSON ({0}): give what `aws cloudformation describe-stacks --stack-name ..` prints"
    )]
    NoJson(#[from] serde_json::Error),
    #[error(
        "no stack with outputs in it: give what `aws cloudformation describe-stacks --stack-name ..` prints, once the \
         stack is CREATE_COMPLETE"
    )]
    NoOutputs,
    #[error("{0} stacks in it: name one with --stack-name when you ask for them")]
    Several(usize),
    #[error(
        "the stack has no output {0}: it is not made from this version's template; run the line that `fogbeat cloud deploy-command` prints"
    )]
    Missing(&'static str),
    #[error(
        "the stack has no output {output}: it was made without that path; deploy it with --path {path} or --path both"
    )]
    OtherPath { output: &'static str, path: &'static str },
}

impl Outputs {
    /// Reads what `aws cloudformation describe-stacks` prints.
    ///
    /// # Errors
    /// [`OutputsError`].
    pub fn parse(text: &str) -> Result<Self, OutputsError> {
        let told: Value = serde_json::from_str(text)?;
        let stacks = told.get("Stacks").and_then(Value::as_array).ok_or(OutputsError::NoOutputs)?;
        let stack = match stacks.as_slice() {
            [stack] => stack,
            [] => return Err(OutputsError::NoOutputs),
            several => return Err(OutputsError::Several(several.len())),
        };
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let outputs = stack.get("Outputs").and_then(Value::as_array).ok_or(OutputsError::NoOutputs)?;
        let values = outputs
            .iter()
            .filter_map(|output| Some((text(output, "OutputKey")?, text(output, "OutputValue")?)))
            .collect();
        Ok(Self { stack: text(stack, "StackName"), values })
    }

    fn get(&self, name: &'static str) -> Result<&str, OutputsError> {
        self.values.get(name).map(String::as_str).ok_or(OutputsError::Missing(name))
    }

    /// The part of `fogbeat.toml` that follows. `path`: by default Firehose where the stack has it.
    ///
    /// # Errors
    /// [`OutputsError`].
    pub fn config(&self, path: Option<Path>) -> Result<String, OutputsError> {
        let stream = self.values.get("Stream");
        let path = path.unwrap_or(if stream.is_some() { Path::Firehose } else { Path::Iot });
        let missing = |output, path| OutputsError::OtherPath { output, path };
        let region = self.get("Region")?;
        let stack = self.stack.as_deref().unwrap_or("?");
        let mut lines = vec![format!("# From stack {stack} in {region}.")];
        let key = |name: &str, value: &str| format!("{name} = {}", toml::Value::from(value));
        match path {
            Path::Firehose => {
                let stream = stream.ok_or(missing("Stream", "firehose"))?;
                let alias = self.values.get("RoleAlias").ok_or(missing("RoleAlias", "firehose"))?;
                lines.push("[[uplink]]".to_owned());
                lines.push(key("kind", "firehose"));
                lines.push(key("stream", stream));
                lines.push(key("region", region));
                lines.push(String::new());
                lines.push("# Credentials by the gateway's certificate: no key stays here.".to_owned());
                lines.push("[aws.iot_credentials]".to_owned());
                lines.push(key("endpoint", self.get("CredentialEndpoint")?));
                lines.push(key("role_alias", alias));
                lines.push(String::new());
                lines.push(
                    "# Beside Firehose, if wanted: settings from afar and live values by MQTT.".to_owned(),
                );
                let beside = [
                    "[[uplink]]".to_owned(),
                    key("kind", "iot_core"),
                    key("endpoint", self.get("DataEndpoint")?),
                    "batches = false".to_owned(),
                    "shadow = true".to_owned(),
                    "[uplink.live]".to_owned(),
                    key("interval", "10s"),
                ];
                lines.extend(beside.map(|line| format!("#{line}")));
            }
            Path::Iot => {
                let rule = self.values.get("Rule").ok_or(missing("Rule", "iot"))?;
                lines.push("[[uplink]]".to_owned());
                lines.push(key("kind", "iot_core"));
                lines.push(key("endpoint", self.get("DataEndpoint")?));
                lines.push(key("rule", rule));
            }
        }
        lines.push(String::new());
        lines.push(format!(
            "# The gateway's certificate: fogbeat enroll --endpoint {} --template {} --claim-cert .. --claim-key ..",
            self.get("DataEndpoint")?,
            self.get("ProvisioningTemplate")?
        ));
        lines.push(format!(
            "# Queries: Athena, workgroup {}, database {}.",
            self.get("Workgroup")?,
            self.get("Database")?
        ));
        Ok(lines.join("\n") + "\n")
    }
}
