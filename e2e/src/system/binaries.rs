//! Where the programs of this workspace are: beside the program that starts them, as cargo puts them.
//!
//! A binary lies in `target/<profile>`, a test one folder below it, so both find the others of their own profile and never those of an
//! older build elsewhere. Nothing is built here: what is missing is named together with the command that makes it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A program of this workspace, by its name.
///
/// # Errors
/// When it has not been built; the error says how to.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("the system does not say where this program is")?;
    find(&own, name)
}

fn find(own: &Path, name: &str) -> Result<PathBuf> {
    let folder = own.parent().unwrap_or(Path::new("."));
    let found = [Some(folder), folder.parent()]
        .into_iter()
        .flatten()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "{name} is not built: there is none beside {}; run cargo build --workspace --bins",
            own.display()
        ),
    }
}

/// A module of this workspace for Envoy, such as `kthena_wasm_filter`, in the target folder that this program lies in.
///
/// # Errors
/// When it has not been built; the error says how to.
pub fn wasm_module(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("the system does not say where this program is")?;
    let module = PathBuf::from(format!("wasm32-unknown-unknown/wasm/{name}.wasm"));
    let found = own
        .ancestors()
        .map(|folder| folder.join(&module))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "the module is not built: no {} above {}; run make wasm",
            module.display(),
            own.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_program_is_found_beside_a_binary_and_above_a_test() {
        let target = Scratch::new("binaries").unwrap();
        let program = target.path().join("kthena-thing");
        std::fs::write(&program, "").unwrap();
        assert_eq!(
            find(&target.path().join("kthena-demo"), "kthena-thing").unwrap(),
            program
        );
        assert_eq!(
            find(&target.path().join("deps/story-0123"), "kthena-thing").unwrap(),
            program
        );
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_makes_it() {
        let error = find(Path::new("/nowhere/deps/story"), "kthena-thing")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("kthena-thing is not built") && error.contains("cargo build"),
            "{error}"
        );
    }
}
