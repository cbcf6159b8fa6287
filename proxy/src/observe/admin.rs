//! The admin socket: how `redial status` and an agent that takes over talk to a running agent.
//!
//! A unix socket that only root and the agent's own user can use. Each line that a client writes is a request and
//! each line that it reads an answer, both one JSON object; lines, connections and waiting are bounded. The socket's
//! path belongs to the agent that bound it last: binding over another agent's is part of taking over.

use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, str};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Status;

/// A request. On the wire `{"command":"status"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// What is the agent doing?
    Status,
    /// Stop the intake and drain: another agent has attached.
    TakeOver,
}

/// An answer. On the wire `{"status":{..}}`, `{"draining":true}` or `{"error":".."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Status(Box<Status>),
    Draining(bool),
    Error(String),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create {} for the admin socket: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{} exists and is not a socket: give another path for the admin socket, or remove it", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot make the admin socket {}: {source}", path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error("no agent listens on {}", .0.display())]
    NobodyListens(PathBuf),
    #[error("cannot talk to the agent on {}: {source}", path.display())]
    Talk { path: PathBuf, source: io::Error },
    #[error("the agent on {} does not answer", .0.display())]
    NoAnswer(PathBuf),
    #[error("the agent on {} gave an answer that this version does not know: {source}", path.display())]
    OddAnswer { path: PathBuf, source: serde_json::Error },
    #[error("the agent on {} refused: {message}", path.display())]
    Refused { path: PathBuf, message: String },
}

/// Longest request.
const MAX_REQUEST: u64 = 64 * 1024;
/// Longest answer: a status names every workload and policy.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: usize = 16;
/// How long a client waits for its answer in all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where accept fails for want of file descriptors or memory: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A bound admin socket. Dropping it removes the file unless another agent has bound its own there.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    file: FileId,
}

/// What tells two files of the same path apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl AdminSocket {
    /// Binds the path, creating its folder. Whatever socket was there, live or left behind, is replaced in one step:
    /// at no moment does a client find nothing there. Needs a tokio runtime.
    pub fn bind_replacing(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Bind { path: path.to_owned(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| Error::Folder { path: folder.to_owned(), source })?;
        if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
            return Err(Error::NotASocket(path.to_owned()));
        }

        let temporary = Temporary(folder.join(format!(".{:08x}", fastrand::u32(..))));
        let listener = UnixListener::bind(&temporary.0).map_err(failed)?;
        fs::set_permissions(&temporary.0, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let file = FileId::of(&temporary.0).map_err(failed)?;
        fs::rename(&temporary.0, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if FileId::of(&self.path).is_ok_and(|there| there == self.file) {
            // Nothing is lost where this fails: the next agent replaces the file.
            drop(fs::remove_file(&self.path));
        }
    }
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self { device: file.dev(), inode: file.ino() })
    }
}

/// A name that is gone in the end, whether it was renamed or binding failed half-way.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Answers requests until `shutdown` is ready; then the socket is removed.
///
/// `handler` may be asked several things at once. It is cancelled where the client goes away.
pub async fn serve<H, F>(socket: AdminSocket, handler: H, shutdown: impl Future<Output = ()>)
where
    H: Fn(Command) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    tokio::select! {
        () = accept(&socket.listener, handler) => {}
        () = shutdown => {}
    }
}

/// Asks the agent that listens on `path`. [`Error::NobodyListens`] where there is none.
pub async fn request(path: &Path, command: Command) -> Result<Answer, Error> {
    let exchange = timeout(ANSWER_TIMEOUT, exchange(path, command)).await;
    let line = match exchange {
        Err(_) => return Err(Error::NoAnswer(path.to_owned())),
        Ok(Err(source)) if is_nobody(&source) => return Err(Error::NobodyListens(path.to_owned())),
        Ok(Err(source)) => return Err(Error::Talk { path: path.to_owned(), source }),
        Ok(Ok(line)) if line.is_empty() => return Err(Error::NoAnswer(path.to_owned())),
        Ok(Ok(line)) => line,
    };
    match serde_json::from_slice(&line) {
        Ok(Answer::Error(message)) => Err(Error::Refused { path: path.to_owned(), message }),
        Ok(answer) => Ok(answer),
        Err(source) => Err(Error::OddAnswer { path: path.to_owned(), source }),
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn exchange(path: &Path, command: Command) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(&line_of(&command)?).await?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_until(b'\n', &mut answer).await?;
    Ok(answer)
}

async fn accept<H, F>(listener: &UnixListener, handler: H)
where
    H: Fn(Command) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let own = Uid::effective().as_raw();
    let mut connections = JoinSet::new();
    loop {
        if connections.len() == MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) if is_allowed(peer.uid(), own) => {
                    connections.spawn(serve_connection(stream, handler.clone()));
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "a user who may not use the admin socket was sent away");
                }
                Err(error) => tracing::warn!(%error, "cannot tell who connected to the admin socket"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the admin socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

const fn is_allowed(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

async fn serve_connection<H, F>(stream: UnixStream, handler: H)
where
    H: Fn(Command) -> F,
    F: Future<Output = Answer>,
{
    let (reader, writer) = stream.into_split();
    if let Err(error) = answer_requests(reader, writer, handler).await {
        tracing::debug!(%error, "a connection to the admin socket ended early");
    }
}

/// Answers the requests of one connection until it ends, or is too slow, or says too much.
pub async fn answer_requests<H, F>(
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Command) -> F,
    F: Future<Output = Answer>,
{
    let mut reader = BufReader::new(reader);
    loop {
        let request = match timeout(READ_TIMEOUT, read_line(&mut reader)).await?? {
            Line::End => return Ok(()),
            Line::TooLong => {
                let refusal = Answer::Error(format!("a request has at most {MAX_REQUEST} bytes"));
                return write(&mut writer, &refusal).await;
            }
            Line::Whole(line) => line,
        };
        let answer = match serde_json::from_slice(&request) {
            Ok(command) => handler(command).await,
            Err(error) => Answer::Error(format!("not a request that this version knows: {error}")),
        };
        write(&mut writer, &answer).await?;
    }
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    timeout(READ_TIMEOUT, writer.write_all(&line_of(answer)?)).await?
}

fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Line> {
    let mut line = Vec::new();
    reader.take(MAX_REQUEST).read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole(line),
        Some(_) if u64::try_from(line.len()).is_ok_and(|len| len < MAX_REQUEST) => Line::Whole(line),
        Some(_) => Line::TooLong,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    use super::{AdminSocket, Answer, Command, Error, MAX_REQUEST, is_allowed, request, serve};
    use crate::observe::status::tests::status;

    fn socket_in(folder: &tempfile::TempDir) -> (AdminSocket, PathBuf) {
        let path = folder.path().join("run/redial/a.sock");
        (AdminSocket::bind_replacing(&path).unwrap(), path)
    }

    fn spawn(socket: AdminSocket) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let (stop, stopped) = oneshot::channel();
        let handler = |command| async move {
            match command {
                Command::Status => Answer::Status(Box::new(status())),
                Command::TakeOver => Answer::Draining(true),
            }
        };
        let stopped = async { stopped.await.unwrap_or_default() };
        (stop, tokio::spawn(serve(socket, handler, stopped)))
    }

    async fn raw(path: &Path, request: &[u8]) -> String {
        let mut stream = BufReader::new(UnixStream::connect(path).await.unwrap());
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn the_words_on_the_wire() {
        assert_eq!(serde_json::to_string(&Command::Status).unwrap(), r#"{"command":"status"}"#);
        assert_eq!(serde_json::to_string(&Command::TakeOver).unwrap(), r#"{"command":"take-over"}"#);
        assert_eq!(serde_json::to_string(&Answer::Draining(true)).unwrap(), r#"{"draining":true}"#);
        assert_eq!(serde_json::to_value(Answer::Status(Box::new(status()))).unwrap()["status"]["pid"], 7);
    }

    #[tokio::test]
    async fn a_request_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = socket_in(&folder);
        let (_stop, _task) = spawn(socket);
        assert_eq!(request(&path, Command::Status).await.unwrap(), Answer::Status(Box::new(status())));
        assert_eq!(request(&path, Command::TakeOver).await.unwrap(), Answer::Draining(true));
    }

    #[tokio::test]
    async fn one_connection_may_ask_several_things() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = socket_in(&folder);
        let (_stop, _task) = spawn(socket);
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        stream.write_all(b"{\"command\":\"take-over\"}\nnonsense\n{\"command\":\"dance\"}\n").await.unwrap();
        let mut lines = stream.lines();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), r#"{"draining":true}"#);
        for _ in 0..2 {
            let answer = lines.next_line().await.unwrap().unwrap();
            assert!(answer.starts_with(r#"{"error":"not a request"#), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_long_line_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = socket_in(&folder);
        let (_stop, _task) = spawn(socket);
        let answer = raw(&path, &vec![b' '; usize::try_from(MAX_REQUEST).unwrap()]).await;
        assert!(answer.contains("at most 65536 bytes"), "{answer}");
    }

    #[tokio::test]
    async fn a_silent_client_is_sent_away() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = socket_in(&folder);
        let (_stop, _task) = spawn(socket);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"command\":").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    }

    #[tokio::test]
    async fn only_this_user_reaches_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let (_socket, path) = socket_in(&folder);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert!(is_allowed(0, 1000) && is_allowed(1000, 1000));
        assert!(!is_allowed(1001, 1000) && !is_allowed(1000, 0));
    }

    #[tokio::test]
    async fn nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        assert!(matches!(request(&path, Command::Status).await, Err(Error::NobodyListens(_))));

        // An agent that was killed leaves the file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(request(&path, Command::Status).await, Err(Error::NobodyListens(_))));
        let (_stop, _task) = spawn(AdminSocket::bind_replacing(&path).unwrap());
        assert_eq!(request(&path, Command::TakeOver).await.unwrap(), Answer::Draining(true));
    }

    #[tokio::test]
    async fn the_new_agents_socket_survives_the_old_agents_end() {
        let folder = tempfile::tempdir().unwrap();
        let (old, path) = socket_in(&folder);
        let (stop_old, old) = spawn(old);
        let (new, _) = socket_in(&folder);
        let (stop_new, new) = spawn(new);

        stop_old.send(()).unwrap();
        old.await.unwrap();
        assert_eq!(request(&path, Command::TakeOver).await.unwrap(), Answer::Draining(true));

        stop_new.send(()).unwrap();
        new.await.unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = AdminSocket::bind_replacing(&path).unwrap_err();
        assert!(matches!(error, Error::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn what_cannot_be_bound_is_named_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-name-that-is-too-long".repeat(12));
        let error = AdminSocket::bind_replacing(&path).unwrap_err();
        assert!(error.to_string().contains("a-name-that-is-too-long"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_refusal_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, path) = socket_in(&folder);
        let refuse = |_| async { Answer::Error("already draining".to_owned()) };
        tokio::spawn(serve(socket, refuse, std::future::pending()));
        let error = request(&path, Command::TakeOver).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { message, .. } if message == "already draining"), "{error}");
    }
}
