//! `fogbeat check`

use super::{Common, Failure, output};
use crate::config::Account;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Print JSON instead of TOML
    #[arg(long)]
    json: bool,
    /// Show as well what the limits of memory add up to
    #[arg(long, short)]
    verbose: bool,
}

pub fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let account = Account::of(&config);
    if options.json {
        return match options.verbose {
            true => output::print_json(&serde_json::json!({ "settings": config, "memory": account })),
            false => output::print_json(&config),
        };
    }
    output::print(&config.to_toml().map_err(Failure::defect)?)?;
    if options.verbose {
        // As comments: what is printed stays a configuration.
        let table: String =
            account.to_string().lines().map(|line| format!("# {}\n", line.trim_end())).collect();
        output::print(&format!("\n# Memory in the worst case:\n{table}"))?;
    }
    Ok(())
}
