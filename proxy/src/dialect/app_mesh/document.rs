//! What is around what a document of App Mesh says: what it is, what it is called, and what it may be referred to by.

use std::ops::RangeInclusive;

use super::super::common;
use super::super::fields::{Field, Problems};
use super::super::note::Code;

/// What a document is about, in the API's form or in that of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Mesh,
    Node,
    Router,
    Service,
    Route,
}

/// What a document is, as the one that reads it is told, and as an error calls it.
pub(super) struct Form {
    pub(super) kind: Kind,
    pub(super) word: &'static str,
    /// The field of the API that names one, and the field of an answer that has one.
    api: Option<(&'static str, &'static str)>,
}

pub(super) const LIST: &str = "list";

pub(super) const FORMS: [Form; 9] = [
    // What names a route names its router too, and so on: the first that is there tells.
    Form { kind: Kind::Route, word: "route", api: Some(("routeName", "route")) },
    Form { kind: Kind::Node, word: "virtual node", api: Some(("virtualNodeName", "virtualNode")) },
    Form {
        kind: Kind::Service,
        word: "virtual service",
        api: Some(("virtualServiceName", "virtualService")),
    },
    Form { kind: Kind::Router, word: "virtual router", api: Some(("virtualRouterName", "virtualRouter")) },
    Form { kind: Kind::Mesh, word: "mesh", api: Some(("meshName", "mesh")) },
    Form { kind: Kind::Router, word: "VirtualRouter", api: None },
    Form { kind: Kind::Service, word: "VirtualService", api: None },
    Form { kind: Kind::Node, word: "VirtualNode", api: None },
    Form { kind: Kind::Mesh, word: "Mesh", api: None },
];

/// The answers that have nothing but names, and what gives the objects themselves.
const LISTS: [(&str, &str); 5] = [
    ("routes", "describe-route"),
    ("virtualNodes", "describe-virtual-node"),
    ("virtualServices", "describe-virtual-service"),
    ("virtualRouters", "describe-virtual-router"),
    ("meshes", "describe-mesh"),
];

/// What an object is called by those beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The mesh of an object of the API, the namespace of one of Kubernetes.
    pub(super) scope: Option<String>,
    pub(super) is_api: bool,
    pub(super) name: String,
}

/// Another object, as one refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Key(Key),
    /// By its name in App Mesh, whatever form its document has.
    Arn {
        mesh: String,
        owner: Option<String>,
        name: String,
    },
}

/// A document without what names it.
pub(super) struct Object<'a> {
    pub(super) form: &'static Form,
    pub(super) root: Field<'a>,
    pub(super) key: Key,
    /// Its name in App Mesh.
    pub(super) aws_name: String,
    /// The mesh that it is in, where that is known, and the account that owns the mesh.
    pub(super) mesh: Option<String>,
    pub(super) owner: Option<String>,
    /// The router of a route of the API.
    pub(super) router: Option<&'a str>,
    pub(super) spec: Field<'a>,
}

impl Key {
    pub(super) fn api(mesh: &str, name: &str) -> Self {
        Self { scope: Some(mesh.to_owned()), is_api: true, name: name.to_owned() }
    }

    pub(super) fn kubernetes(namespace: Option<&str>, name: &str) -> Self {
        Self { scope: namespace.map(str::to_owned), is_api: false, name: name.to_owned() }
    }
}

impl Reference {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Key(key) => &key.name,
            Self::Arn { name, .. } => name,
        }
    }

    /// Whether both mean one object, as far as they tell by themselves.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(key), Self::Arn { mesh, name, .. })
            | (Self::Arn { mesh, name, .. }, Self::Key(key)) => {
                key.is_api && key.scope.as_ref() == Some(mesh) && key.name == *name
            }
            (one, other) => one == other,
        }
    }

    /// `arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/KIND/NAME`, with `MESH@OWNER` where the mesh is another account's.
    fn arn(field: &Field<'_>, kind: &str, problems: &mut Problems) -> Option<Self> {
        let parts: Vec<_> = field.text(problems)?.splitn(6, ':').collect();
        if let ["arn", _, "appmesh", _, account, path] = parts[..]
            && let ["mesh", mesh, found, name] = path.split('/').collect::<Vec<_>>()[..]
            && found == kind
        {
            let (mesh, owner) = mesh.split_once('@').unwrap_or((mesh, account));
            let owner = Some(owner).filter(|owner| is_account(owner)).map(str::to_owned);
            return Some(Self::Arn { mesh: mesh.to_owned(), owner, name: name.to_owned() });
        }
        let expected = format!("an ARN such as arn:aws:appmesh:REGION:ACCOUNT:mesh/MESH/{kind}/NAME");
        field.expected(&expected, problems)
    }

    /// What a `...Ref` or a `...ARN` of a Kubernetes object refers to.
    pub(super) fn of_kubernetes(
        field: &Field<'_>,
        kind: &str,
        scope: &Key,
        problems: &mut Problems,
    ) -> Option<Self> {
        if field.word().is_some() {
            return Self::arn(field, kind, problems);
        }
        let map = field.map_of(&["name", "namespace"], problems)?;
        let name = map.required("name", problems).and_then(|field| name(&field, problems));
        let namespace =
            map.optional("namespace", scope.scope.as_deref(), |field| field.text(problems).map(Some));
        Some(Self::Key(Key::kubernetes(namespace?, name?)))
    }
}

impl Object<'_> {
    /// Whether it is what is referred to. What is not known of it is taken to be right.
    pub(super) fn is(&self, reference: &Reference) -> bool {
        match reference {
            Reference::Key(key) => self.key == *key,
            Reference::Arn { mesh, owner, name } => {
                let is = |own: &Option<String>, said: &String| own.as_ref().is_none_or(|own| own == said);
                self.aws_name == *name
                    && is(&self.mesh, mesh)
                    && owner.as_ref().is_none_or(|owner| is(&self.owner, owner))
            }
        }
    }
}

/// What a document of the API is, by its fields.
pub(super) fn kind(root: &Field<'_>) -> Option<&'static str> {
    if root.child("apiVersion").is_some() || root.child("kind").is_some() {
        return None;
    }
    let named =
        |object: &Field<'_>, form: &Form| form.api.is_some_and(|(name, _)| object.child(name).is_some());
    let answered = |form: &&Form| {
        form.api.and_then(|(_, outer)| root.child(outer)).is_some_and(|object| named(&object, form))
    };
    let form = FORMS.iter().find(|form| named(root, form)).or_else(|| FORMS.iter().find(answered));
    let is_list = || LISTS.iter().any(|(list, _)| root.child(list).is_some_and(|list| list.is_list()));
    form.map(|form| form.word).or_else(|| is_list().then_some(LIST))
}

/// Tells what an answer with nothing but names lacks.
pub(super) fn refuse_list(root: &Field<'_>, problems: &mut Problems) {
    for (list, command) in LISTS {
        if let Some(field) = root.child(list) {
            let message = format!("a list has nothing but names; take the answers of aws appmesh {command}");
            let _: Option<()> = field.problem(message, problems);
        }
    }
}

/// Reads what is around what a document says. None after a problem, and of what is deleted, which is noted.
pub(super) fn object<'a>(root: &Field<'a>, word: &str, problems: &mut Problems) -> Option<Object<'a>> {
    let form = FORMS.iter().find(|form| form.word == word)?;
    match form.api {
        Some((name, outer)) => api(root, form, (name, outer), problems),
        None => kubernetes(root, form, problems),
    }
}

fn api<'a>(
    root: &Field<'a>,
    form: &'static Form,
    (named, outer): (&str, &str),
    problems: &mut Problems,
) -> Option<Object<'a>> {
    // The object itself, whether it is given as a command takes it or as an answer has it.
    let root = match root.child(outer) {
        Some(object) => root.map_of(&[outer], problems).map(|_| object)?,
        None => root.clone(),
    };
    let mut known = vec!["meshName", "spec", "clientToken", "meshOwner", "tags", "metadata", "status", named];
    if form.kind == Kind::Route {
        known.push("virtualRouterName");
    }
    let map = root.map_of(&known, problems)?;
    let mut required = |field| map.required(field, problems).and_then(|field| name(&field, problems));
    let (mesh, own) = (required("meshName"), required(named));
    let router = if form.kind == Kind::Route { required("virtualRouterName").map(Some) } else { Some(None) };
    let owner = map.optional("meshOwner", None, |field| account(&field, problems).map(Some));
    let answered =
        root.child("metadata").and_then(|metadata| metadata.child("meshOwner")?.word().map(String::from));
    let spec = match map.get("spec") {
        None if form.kind == Kind::Mesh => root.clone(),
        _ => map.required("spec", problems)?,
    };
    let (mesh, own, router) = (mesh?, own?, router?);
    if let Some(status) = root.child("status").and_then(|status| status.child("status"))
        && status.word().as_deref() == Some("DELETED")
    {
        problems.note(Code::Ignored, &status.here(), "it is deleted, and nothing is done about it");
        return None;
    }
    let within = router.map_or_else(|| mesh.to_owned(), |router| format!("{mesh}/{router}"));
    Some(Object {
        form,
        key: Key::api(&within, own),
        aws_name: own.to_owned(),
        mesh: Some(mesh.to_owned()),
        owner: owner?.map(str::to_owned).or(answered),
        router,
        spec,
        root,
    })
}

fn kubernetes<'a>(root: &Field<'a>, form: &'static Form, problems: &mut Problems) -> Option<Object<'a>> {
    let document = root.map_of(&["apiVersion", "kind", "metadata", "spec", "status"], problems)?;
    let metadata = common::metadata(root, problems);
    let spec = document.required("spec", problems)?;
    let metadata = metadata?;
    let said = spec.child("awsName").and_then(|field| field.word().map(String::from));
    let separator = if form.kind == Kind::Service { "." } else { "_" };
    let default = || match metadata.namespace.filter(|_| form.kind != Kind::Mesh) {
        Some(namespace) => format!("{}{separator}{namespace}", metadata.name),
        None => metadata.name.to_owned(),
    };
    let mesh = spec.child("meshRef").and_then(|mesh| mesh.child("name")?.word().map(String::from));
    let owner = spec.child("meshOwner").map(|field| account(&field, problems).map(str::to_owned));
    Some(Object {
        form,
        root: root.clone(),
        key: Key::kubernetes(metadata.namespace, metadata.name),
        aws_name: said.filter(|name| !name.is_empty()).unwrap_or_else(default),
        mesh,
        owner: owner.map_or(Some(None), |owner| owner.map(Some))?,
        router: None,
        spec,
    })
}

/// The name of an object.
pub(super) fn name<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<&'a str> {
    text(field, 1..=255, problems)
}

/// A text of so many bytes.
pub(super) fn text<'a>(
    field: &Field<'a>,
    length: RangeInclusive<usize>,
    problems: &mut Problems,
) -> Option<&'a str> {
    let text = field.text(problems)?;
    if length.contains(&text.len()) {
        return Some(text);
    }
    let expected = format!("text of {} to {} characters", length.start(), length.end());
    field.expected(&expected, problems)
}

fn account<'a>(field: &Field<'a>, problems: &mut Problems) -> Option<&'a str> {
    let text = field.text(problems)?;
    if is_account(text) {
        Some(text)
    } else {
        field.expected(&"the 12 digits of an account, in quotes", problems)
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}
