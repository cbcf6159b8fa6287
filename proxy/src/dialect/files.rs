//! Reading the files and folders of `--config`: the only place of the pure modules that touches a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::fields::Problems;
use super::{MAX_FILE_BYTES, Note, Options, Parsed, Problem, lint, nodes, read_all};
use crate::policy::{DuplicateName, Origin, Table};

/// The names that a folder's documents end in. A file that is named itself may have any name.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub table: Table,
    /// In the order of the files.
    pub notes: Vec<Note>,
}

/// An object of an API, as a document.
#[derive(Clone, Debug)]
pub struct ObjectText {
    /// What stands for a file's path.
    pub place: Arc<Path>,
    pub text: Arc<str>,
    /// What it said when it was last in force, if ever.
    pub good: Option<Arc<str>>,
}

/// What files and objects come to together.
#[derive(Clone, Debug)]
pub struct Together {
    pub loaded: Loaded,
    /// What is wrong with the objects that are not in force as they are.
    pub refused: Vec<Problem>,
    /// What is in force of each object: of one that is refused, if anything, what it said before.
    pub good: BTreeMap<Arc<Path>, Arc<str>>,
}

/// Everything that is wrong with a configuration, a line each.
#[derive(Debug, Error)]
pub struct LoadError {
    problems: Vec<Problem>,
    notes: Vec<Note>,
    is_unreadable: bool,
}

/// Why a path gives no text.
struct Failed {
    problem: Problem,
    /// The system refused it, which says nothing of the documents.
    is_unreadable: bool,
}

/// The policies of all these files and folders, or everything that is wrong with any of them.
///
/// A folder stands for the `.yaml`, `.yml` and `.json` files directly in it, symbolic links followed, in the order of
/// their names; names that begin with a dot are passed over, as the folders behind a mounted `ConfigMap`'s links have
/// them.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, LoadError> {
    load_with(paths, Options::default())
}

/// As [`load`], with the documents read so.
pub fn load_with(paths: &[PathBuf], options: Options) -> Result<Loaded, LoadError> {
    load_together(paths, options, &[]).map(|together| together.loaded)
}

/// What can be [loaded](load_with), document by document.
pub fn read_with(paths: &[PathBuf], options: Options) -> Result<Parsed, LoadError> {
    read_documents(paths, options, &[]).map(|read| read.parsed)
}

/// The policies of files, and of the objects of an API, whose names stand for files.
///
/// With something wrong in an object, what it said before holds, or it is left out: that object alone, since whoever wrote
/// the others can't mend it. With files it is all of them or nothing.
pub fn load_together(
    paths: &[PathBuf],
    options: Options,
    objects: &[ObjectText],
) -> Result<Together, LoadError> {
    let Whole { table, parsed: Parsed { policies: _, notes }, refused, good } =
        read_documents(paths, options, objects)?;
    Ok(Together { loaded: Loaded { table, notes }, refused, good })
}

/// What has come of all documents.
struct Whole {
    table: Table,
    parsed: Parsed,
    refused: Vec<Problem>,
    good: BTreeMap<Arc<Path>, Arc<str>>,
}

fn read_documents(paths: &[PathBuf], options: Options, objects: &[ObjectText]) -> Result<Whole, LoadError> {
    let (mut trees, mut failed, mut found) = (Vec::new(), Vec::new(), Problems::default());
    for path in paths {
        match documents(path) {
            Ok(files) => {
                for file in files {
                    match read(&file) {
                        Ok(text) => {
                            let file = Arc::from(file);
                            let nodes = nodes(&file, &text, &mut found);
                            trees.push((file, nodes));
                        }
                        Err(found) => failed.push(found),
                    }
                }
            }
            Err(found) => failed.push(found),
        }
    }
    let is_unreadable = failed.iter().any(|failed| failed.is_unreadable);
    let mut unusable: Vec<_> = failed.into_iter().map(|failed| failed.problem).collect();
    // Nobody names a file that is to say nothing: it was cut off, or is the wrong one.
    let is_broken = |file: &Arc<Path>| found.are_in(file);
    let empty = trees.iter().filter(|(file, nodes)| nodes.is_empty() && !is_broken(file));
    unusable.extend(empty.map(|(file, _)| problem(file, "there is no document in it".to_owned())));

    let files = trees.len();
    let (mut good, mut before) = (BTreeMap::new(), BTreeMap::new());
    for ObjectText { place, text, good: known } in objects {
        trees.push((Arc::clone(place), nodes(place, text, &mut found)));
        good.insert(Arc::clone(place), Arc::clone(text));
        before.extend(known.as_ref().filter(|known| *known != text).map(|known| (place, known)));
    }
    let mut refused: Vec<Problem> = Vec::new();
    loop {
        let (Parsed { policies, mut notes }, problems) = read_all(options, &trees, found.clone());
        let order = |file: &Path| trees.iter().position(|(known, _)| &**known == file);
        let table = Table::try_new(policies.clone());
        // The duplicates are told beside whatever else is wrong.
        let duplicates = table.as_ref().err().into_iter().flatten().cloned().map(duplicate);
        let (mut of_objects, mut problems): (Vec<_>, Vec<_>) = problems
            .into_iter()
            .chain(duplicates)
            .partition(|problem| order(&problem.file).is_some_and(|at| at >= files));
        if !of_objects.is_empty() {
            // Where what some said before holds, that is tried first: what is wrong with others may be only that they refer to these.
            if of_objects.iter().any(|problem| before.contains_key(&problem.file)) {
                of_objects.retain(|problem| before.contains_key(&problem.file));
            }
            // They may be what is wrong with a file: files are blamed without them.
            found.forget(&of_objects);
            let wrong: BTreeSet<_> = of_objects.iter().map(|problem| Arc::clone(&problem.file)).collect();
            // What was wrong first is what is to be mended.
            let known: BTreeSet<_> = refused.iter().map(|problem| Arc::clone(&problem.file)).collect();
            refused.extend(of_objects.into_iter().filter(|problem| !known.contains(&problem.file)));
            let mut at = 0..;
            trees.retain_mut(|(file, tree)| {
                if at.next().is_some_and(|at| at < files) || !wrong.contains(file) {
                    return true;
                }
                let Some(text) = before.remove(file).map(Arc::clone) else {
                    good.remove(file);
                    return false;
                };
                *tree = nodes(file, &text, &mut found);
                good.insert(Arc::clone(file), text);
                true
            });
            continue;
        }
        if let Ok(table) = &table {
            notes.extend(lint::between(table));
            notes.sort_by_key(|note| (order(&note.file), note.line));
        }
        problems.splice(0..0, unusable);
        return match table {
            Ok(table) if problems.is_empty() => {
                Ok(Whole { table, parsed: Parsed { policies, notes }, refused, good })
            }
            Ok(_) | Err(_) => Err(LoadError { problems, notes, is_unreadable }),
        };
    }
}

impl LoadError {
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What is to be said of what could be read.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Whether the system refused a file or folder, as against documents that are wrong.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }
}

impl Display for LoadError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// The files that a path of `--config` stands for.
fn documents(path: &Path) -> Result<Vec<PathBuf>, Failed> {
    let failed = |error| unreadable(path, &error);
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let file = path.join(entry.map_err(failed)?.file_name());
        // A link that leads nowhere is not passed over: reading it says so.
        if is_document(&file) && !fs::metadata(&file).is_ok_and(|metadata| metadata.is_dir()) {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(unusable(path, "the folder has no .yaml, .yml or .json file".to_owned()));
    }
    files.sort();
    Ok(files)
}

fn is_document(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && EXTENSIONS.into_iter().any(|extension| file.extension() == Some(OsStr::new(extension)))
}

fn read(file: &Path) -> Result<String, Failed> {
    let read = || {
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file that is too long from one that just fits.
        let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| unreadable(file, &error))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(unusable(file, format!("the file is longer than {MAX_FILE_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| unusable(file, format!("the file is no UTF-8 text: {error}")))
}

fn unreadable(path: &Path, error: &io::Error) -> Failed {
    Failed { problem: problem(path, error.to_string()), is_unreadable: true }
}

fn unusable(path: &Path, message: String) -> Failed {
    Failed { problem: problem(path, message), is_unreadable: false }
}

fn duplicate(duplicate: DuplicateName) -> Problem {
    let message = duplicate.to_string();
    match duplicate.second {
        Origin::File { path, line } => {
            Problem { file: path, line: Some(line), field: Some("metadata.name".to_owned()), message }
        }
        Origin::BuiltIn => problem(Path::new("built in"), message),
    }
}

fn problem(file: &Path, message: String) -> Problem {
    Problem { file: Arc::from(file), line: None, field: None, message }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;

    use super::{LoadError, Loaded, ObjectText, Together, load, load_together};
    use crate::dialect::{MAX_FILE_BYTES, Options};

    fn document(name: &str) -> String {
        format!(
            "apiVersion: redial.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: {name}}}\nspec: {{}}\n"
        )
    }

    /// A folder with these files.
    fn folder<const N: usize>(files: [(&str, &str); N]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn load_each(paths: &[&Path]) -> Result<Loaded, LoadError> {
        load(&paths.iter().map(|path| path.to_path_buf()).collect::<Vec<_>>())
    }

    fn names(paths: &[&Path]) -> Vec<String> {
        load_each(paths).unwrap().table.policies().map(|policy| policy.name.to_string()).collect()
    }

    /// The error's lines, without the folder's own path.
    fn complaints(folder: &TempDir, paths: &[&Path]) -> Vec<String> {
        let error = load_each(paths).unwrap_err().to_string();
        let prefix = format!("{}/", folder.path().display());
        error.lines().map(|line| line.replace(&prefix, "")).collect()
    }

    #[test]
    fn nothing_given_is_the_built_in_policy() {
        assert_eq!(names(&[]), ["default"]);
    }

    #[test]
    fn a_folder_stands_for_its_documents_and_a_file_for_itself() {
        let folder = folder([
            ("b.yml", &document("b")),
            ("a.yaml", &document("a")),
            (
                "c.json",
                r#"{"apiVersion":"redial.dev/v1alpha1","kind":"RetryPolicy","metadata":{"name":"c"},"spec":{}}"#,
            ),
            ("notes.txt", "not: [yaml"),
            (".hidden.yaml", "not: [yaml"),
            ("yaml", "not: [yaml"),
        ]);
        fs::create_dir(folder.path().join("sub.yaml")).unwrap();
        assert_eq!(names(&[folder.path()]), ["a", "b", "c", "default"]);
        fs::write(folder.path().join("notes.txt"), document("d")).unwrap();
        assert_eq!(
            names(&[folder.path(), &folder.path().join("notes.txt")]),
            ["a", "b", "c", "d", "default"]
        );
    }

    #[test]
    fn a_mounted_config_map_is_read_once_through_its_links() {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("..2026_01_01");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a.yaml"), document("a")).unwrap();
        symlink("..2026_01_01", folder.path().join("..data")).unwrap();
        symlink("..data/a.yaml", folder.path().join("a.yaml")).unwrap();
        assert_eq!(names(&[folder.path()]), ["a", "default"]);
    }

    #[test]
    fn every_problem_of_every_file_is_told() {
        let folder = folder([
            ("a.yaml", &document("same")),
            ("b.yaml", &(document("b") + "---\n" + &document("same"))),
            (
                "c.yaml",
                &document("c").replace("spec: {}", "spec: {tcp: {maxConnectAttempts: 0}, budgets: {}}"),
            ),
            ("d.yaml", "a: [1\n"),
        ]);
        fs::write(folder.path().join("e.yaml"), b"a: \xff\n").unwrap();
        symlink("nowhere", folder.path().join("f.yaml")).unwrap();
        let missing = folder.path().join("missing.yaml");
        let complaints = complaints(&folder, &[folder.path(), &missing]);
        let expected = [
            "e.yaml: the file is no UTF-8 text",
            "f.yaml: No such file or directory",
            "missing.yaml: No such file or directory",
            "c.yaml:4: spec.budgets: there is no such field",
            "c.yaml:4: spec.tcp.maxConnectAttempts: expected a whole number",
            "d.yaml:1: unclosed bracket",
            "b.yaml:6: metadata.name: the name same is taken already, at a.yaml:1",
        ];
        assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
        for (complaint, expected) in complaints.iter().zip(expected) {
            assert!(complaint.starts_with(expected), "{complaint}");
        }
    }

    #[test]
    fn the_notes_of_every_file_are_told() {
        let dangerous = |name| {
            document(name).replace(
                "spec: {}",
                &format!("spec:\n  to: [{{hosts: [{name}]}}]\n  http:\n    methods: any"),
            )
        };
        let folder = folder([
            ("a.yaml", &(document("a") + "---\n" + &dangerous("b"))),
            ("b.yaml", &document("c").replace("spec: {}", "spec: {to: [{ports: [1]}]}")),
            ("c.yaml", &dangerous("d")),
        ]);
        let notes = load_each(&[folder.path()]).unwrap().notes;
        let place = |file, line| (folder.path().join(file), line);
        assert_eq!(
            notes.iter().map(|note| (note.file.to_path_buf(), note.line)).collect::<Vec<_>>(),
            [place("a.yaml", 12), place("c.yaml", 7)]
        );
    }

    #[test]
    fn a_folder_without_documents_is_an_error() {
        let folder = folder([("notes.txt", "")]);
        let error = load_each(&[folder.path()]).unwrap_err();
        assert!(error.to_string().ends_with(": the folder has no .yaml, .yml or .json file"), "{error}");
    }

    #[test]
    fn a_file_may_be_a_mebibyte_long_and_no_longer() {
        let fits = document("a");
        let padding = "#".repeat(MAX_FILE_BYTES - fits.len());
        let folder = folder([("a.yaml", &(fits + &padding))]);
        assert_eq!(names(&[folder.path()]), ["a", "default"]);
        let path = folder.path().join("a.yaml");
        fs::write(&path, "ä".repeat(MAX_FILE_BYTES)).unwrap();
        assert_eq!(complaints(&folder, &[&path]), ["a.yaml: the file is longer than 1048576 bytes"]);
    }

    fn object(place: &str, text: &str, good: Option<&str>) -> ObjectText {
        ObjectText { place: Path::new(place).into(), text: text.into(), good: good.map(Into::into) }
    }

    /// The names of the policies in force, and what is wrong with which object.
    fn together(files: &[PathBuf], objects: &[ObjectText]) -> (Vec<String>, Vec<String>, Together) {
        let together = load_together(files, Options::default(), objects).unwrap();
        let names = together.loaded.table.policies().map(|policy| policy.name.to_string()).collect();
        let refused = together.refused.iter().map(ToString::to_string).collect();
        (names, refused, together)
    }

    #[test]
    fn an_object_that_turns_bad_keeps_what_it_said() {
        let (good, bad) = (document("a"), document("a").replace("spec: {}", "spec: {budgets: {}}"));
        let place = Path::new("a");
        let (names, refused, read) =
            together(&[], &[object("a", &bad, Some(&good)), object("b", &document("b"), None)]);
        assert_eq!(names, ["a", "b", "default"]);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].starts_with("a:4: spec.budgets: there is no such field"), "{refused:?}");
        assert_eq!(read.good[place].as_ref(), good);
        // It is looked at anew each time, until it is mended.
        let (names, refused, read) = together(&[], &[object("a", &bad, Some(&read.good[place]))]);
        assert_eq!((names.as_slice(), refused.len()), (["a", "default"].map(String::from).as_slice(), 1));
        let mended = document("c");
        let (names, refused, read) = together(&[], &[object("a", &mended, Some(&read.good[place]))]);
        assert_eq!((names.as_slice(), refused.len()), (["c", "default"].map(String::from).as_slice(), 0));
        assert_eq!(read.good[place].as_ref(), mended);
    }

    /// What is attached to another object is read anew once that says again what it said.
    #[test]
    fn an_object_that_turns_bad_takes_no_other_with_it() {
        let route = |rule: &str, more: &str| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: x}}, spec: {{parentRefs: \
                 [{{group: '', kind: Service, name: web}}], rules: [{{name: {rule}, backendRefs: [{{name: web, port: 80}}]{more}}}]}}}}"
            )
        };
        let policy = "{apiVersion: gateway.kgateway.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: y}, spec: {targetRefs: \
                      [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: x, sectionName: first}], \
                      retry: {retryOn: [5xx], attempts: 2}}}";
        let (good, bad) = (route("first", ""), route("other", ", unheard: of"));
        let (_, refused, _) = together(&[], &[object("x", &good, None), object("y", policy, None)]);
        assert_eq!(refused, [""; 0]);
        let objects = [object("x", &bad, Some(&good)), object("y", policy, Some(policy))];
        let (names, refused, read) = together(&[], &objects);
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(refused.len() == 1 && refused[0].starts_with("x:"), "{refused:?}");
        assert_eq!(
            (read.good[Path::new("x")].as_ref(), read.good[Path::new("y")].as_ref()),
            (&*good, policy)
        );
    }

    #[test]
    fn an_object_that_never_was_right_is_left_out_alone() {
        let bad = document("a").replace("spec: {}", "spec: {budgets: {}}");
        let (names, refused, read) =
            together(&[], &[object("a", &bad, None), object("b", &document("b"), None)]);
        assert_eq!((names.as_slice(), refused.len()), (["b", "default"].map(String::from).as_slice(), 1));
        assert!(!read.good.contains_key(Path::new("a")));
        // Nor does it help that what it said before was as bad.
        let (_, refused, read) = together(&[], &[object("a", &bad, Some(&bad))]);
        assert_eq!((refused.len(), read.good.len()), (1, 0));
    }

    #[test]
    fn what_an_object_said_yields_to_what_was_said_since() {
        let bad = document("x").replace("spec: {}", "spec: {budgets: {}}");
        let files = folder([("a.yaml", &document("a"))]);
        let held = object("x", &bad, Some(&document("a")));
        let (names, refused, read) = together(&[files.path().to_owned()], &[held]);
        assert_eq!(names, ["a", "default"]);
        assert_eq!((refused.len(), read.good.len()), (1, 0));
        assert!(refused[0].starts_with("x:4: spec.budgets: "), "what is to be mended is told: {refused:?}");
    }
}
