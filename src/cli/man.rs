//! `fogbeat man`: the manual pages, made from the command line's own description. For who makes packages.

use std::path::PathBuf;

use clap::CommandFactory;

use super::{Cli, Failure};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the pages go, one for each command; made if it is not there
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let directory = &options.directory;
    let command = Cli::command().disable_help_subcommand(true);
    std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(command, directory)).map_err(
        |error| {
            let directory = directory.display();
            Failure::unavailable(anyhow::anyhow!("the pages cannot be written to {directory} ({error})"))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_what_is_hidden_has_none() {
        let place = tempfile::tempdir().unwrap();
        run(&Options { directory: place.path().join("man1") }).unwrap();
        let page = |name: &str| std::fs::read_to_string(place.path().join("man1").join(name));
        assert!(page("fogbeat.1").unwrap().contains("fogbeat\\-run(1)"));
        assert!(page("fogbeat-run.1").unwrap().contains("SIGHUP"));
        assert!(page("fogbeat-device-add.1").is_ok());
        assert!(page("fogbeat-man.1").is_err() && page("fogbeat-help.1").is_err());
    }
}
