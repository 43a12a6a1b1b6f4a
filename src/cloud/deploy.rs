//! The line that makes the stack. Pure.

/// What the template's parameters are given; what is `None` keeps the template's default.
#[derive(Debug, Clone, Default)]
pub struct Deploy {
    pub site: String,
    pub path: Option<String>,
    pub retention_days: Option<u32>,
    pub alert_email: Option<String>,
    pub quicksight_user: Option<String>,
    pub region: Option<String>,
}

/// Why there is no such line.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error("site {0:?}: give a letter and then up to 19 letters and digits, all in lower case")]
    Site(String),
}

impl Deploy {
    /// The stack's name.
    #[must_use]
    pub fn stack(&self) -> String {
        format!("fogbeat-{}", self.site)
    }

    /// One line for a shell: writes the template beside it and makes (or updates) the stack.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn command(&self) -> Result<String, DeployError> {
        let mut letters = self.site.chars();
        let lower = |c: char| c.is_ascii_lowercase();
        let sound = letters.next().is_some_and(lower)
            && letters.all(|c| lower(c) || c.is_ascii_digit())
            && self.site.len() <= 20;
        if !sound {
            return Err(DeployError::Site(self.site.clone()));
        }
        let stack = self.stack();
        let region = self.region.as_ref().map(|region| format!(" --region {}", quoted(region)));
        let days = self.retention_days.map(|days| days.to_string());
        let parameters = [
            ("SiteName", Some(&self.site)),
            ("Path", self.path.as_ref()),
            ("RetentionDays", days.as_ref()),
            ("AlertEmail", self.alert_email.as_ref()),
            ("QuickSightUser", self.quicksight_user.as_ref()),
        ];
        let parameters: String = parameters
            .into_iter()
            .filter_map(|(name, value)| Some(format!(" {}", quoted(&format!("{name}={}", value?)))))
            .collect();
        Ok(format!(
            "fogbeat cloud template > {stack}.yaml && aws cloudformation deploy{} --stack-name {stack} \
             --template-file {stack}.yaml --capabilities CAPABILITY_IAM --parameter-overrides{parameters}",
            region.unwrap_or_default()
        ))
    }
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=-_./:@+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
