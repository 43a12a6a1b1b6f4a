//! The binary: see [`fogbeat::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    fogbeat::cli::main()
}
