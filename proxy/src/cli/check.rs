//! `redial check`: are these documents good?

use crate::{
    dialect::{self, Loaded},
    policy::Origin,
};
use clap::Args;
use std::{
    fmt::{self, Display, Formatter},
    path::PathBuf,
    process::ExitCode,
};

/// Check policy documents: say what is wrong with them, and what they say that does nothing or harm
///
/// Exits with 0 where all of them can be used, with or without warnings, and with 1 where any has an error or can't be
/// read.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What is told of documents that can be used.
struct Report<'a>(&'a Loaded);

impl Arguments {
    #[expect(clippy::print_stdout, reason = "the answer is what the command is for")]
    #[expect(clippy::print_stderr, reason = "each problem begins with its file, for editors to jump to")]
    pub fn run(self) -> ExitCode {
        match dialect::load(&self.paths) {
            Ok(loaded) => {
                println!("{}", Report(&loaded));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error}\n{}", count(error.problems().len(), "error", "errors"));
                ExitCode::FAILURE
            }
        }
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Loaded { table, notes } = self.0;
        // What is built in is no document's.
        let policies = || table.policies().filter(|policy| policy.origin != Origin::BuiltIn);
        for policy in policies() {
            writeln!(f, "{}: ok ({})", policy.name, policy.origin)?;
        }
        for note in notes {
            writeln!(f, "{note}")?;
        }
        let policies = count(policies().count(), "policy", "policies");
        write!(f, "{policies}, {}", count(notes.len(), "warning", "warnings"))
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::Report;
    use crate::dialect;
    use std::fs;
    use tempfile::TempDir;

    #[test]
    fn a_report_names_each_policy_and_each_warning() {
        let document = |name: &str, spec: &str| {
            format!("apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name}\nspec: {spec}\n")
        };
        let folder = TempDir::new().unwrap();
        let report = |text: String| {
            fs::write(folder.path().join("p.yaml"), text).unwrap();
            let loaded = dialect::load(&[folder.path().to_path_buf()]).unwrap();
            Report(&loaded).to_string().replace(&format!("{}/", folder.path().display()), "")
        };
        assert_eq!(report(String::new()), "0 policies, 0 warnings");
        assert_eq!(report(document("{name: a}", "{http: {}}")), "a: ok (p.yaml:1)\n1 policy, 0 warnings");
        let two = document("{name: default}", "{budget: {percent: 0, minPerSecond: 0}}")
            + "---\n"
            + &document("{name: checkout, namespace: shop}", "{http: {retryOn: [reset-before-request]}}");
        assert_eq!(
            report(two),
            "shop/checkout: ok (p.yaml:6)\n\
             default: ok (p.yaml:1)\n\
             p.yaml:4: spec.budget: warning[no-budget]: with 0 percent and 0 a second nothing is ever retried, connects \
             included; raise one of them\n\
             2 policies, 1 warning"
        );
    }
}
