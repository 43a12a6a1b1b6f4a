//! `fogbeat run`

use super::{Common, Failure};

pub fn run(common: &Common) -> Result<(), Failure> {
    let config = common.load()?;
    let _ = config;
    Ok(())
}
