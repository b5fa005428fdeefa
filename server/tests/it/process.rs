//! The server as a process of its own: started, asked over real sockets, signalled, killed.

use serde_json::Value;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest wait for a start, an answer or an end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A demo world that is made in about a second.
pub(crate) const SMALL_WORLD: [&str; 6] = [
    "demo.items=3000",
    "demo.plans=60",
    "demo.creatives=300",
    "demo.users=100",
    "demo.long_users=3",
    "demo.long_events=800",
];

/// A running server; killed when dropped.
pub(crate) struct Process {
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
}

/// Starts the program and does not wait for it.
fn spawn(command: &str, dir: &Path, settings: &[&str], environment: &[(&str, &str)]) -> Child {
    std::fs::create_dir_all(dir).unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log_of(dir)).unwrap();
    let mut arguments = vec![command, "--json", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    arguments.extend(SMALL_WORLD.iter().chain(settings).flat_map(|setting| ["--set", setting]));
    Command::new(env!("CARGO_BIN_EXE_longbow"))
        .args(arguments)
        .arg("--data")
        .arg(dir)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// What the program over `dir` has logged.
pub(crate) fn log(dir: &Path) -> String {
    std::fs::read_to_string(log_of(dir)).unwrap_or_default()
}

fn log_of(dir: &Path) -> PathBuf {
    dir.with_extension("log")
}

/// Starts the program and kills it after `wait`, ready or not.
pub(crate) fn start_and_kill(command: &str, dir: &Path, settings: &[&str], wait: Duration) {
    let mut child = spawn(command, dir, settings, &[]);
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Starts a program that is to end by itself; its exit code.
pub(crate) fn start_in_vain(command: &str, dir: &Path, settings: &[&str]) -> Option<i32> {
    wait_for(&mut spawn(command, dir, settings, &[])).code()
}

/// Starts the program, asks it to leave once it has logged `words`, and waits for its end; its exit code.
pub(crate) fn leave_at(words: &str, command: &str, dir: &Path, settings: &[&str]) -> Option<i32> {
    let mut child = spawn(command, dir, settings, &[]);
    let until = Instant::now() + PATIENCE;
    while !log(dir).contains(words) {
        assert!(Instant::now() < until, "it never says `{words}`");
        std::thread::sleep(Duration::from_millis(5));
    }
    terminate(&child);
    wait_for(&mut child).code()
}

fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

fn wait_for(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the program does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Process {
    /// Starts the program over `dir` and waits until it says that it is ready.
    pub(crate) fn start(command: &str, dir: &Path, settings: &[&str]) -> Self {
        Self::start_in(command, dir, settings, &[])
    }

    /// The same with further variables of the environment.
    pub(crate) fn start_in(command: &str, dir: &Path, settings: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = spawn(command, dir, settings, environment);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let ready = lines.map_while(Result::ok).find(|line| line.starts_with('{'));
            // Nobody listens any more once the wait below is over.
            let _ = tell.send(ready);
        });
        let Ok(Some(line)) = told.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let log = std::fs::read_to_string(log_of(dir)).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(12).collect();
            panic!("`{command}` did not become ready: {tail:#?}");
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Self { http: address("http"), admin: address("admin"), child }
    }

    /// Ends it as a power failure of the process would: no warning, no last word.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to leave.
    pub(crate) fn terminate(&self) {
        terminate(&self.child);
    }

    /// How it ended.
    pub(crate) fn wait(mut self) -> ExitStatus {
        wait_for(&mut self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server wants no further request on this connection.
    pub(crate) closes: bool,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No connection: the request was never taken.
    NotConnected,
    /// The connection ended before the first byte of an answer.
    Unanswered(io::Error),
    /// An answer began and did not end as it said it would.
    Broken(String),
}

/// One keep-alive connection, opened when needed. Nothing is ever sent twice.
pub(crate) struct Link {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Link {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// One request and its answer.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Reply, Lost> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).map_err(|_| Lost::NotConnected)?;
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                BufReader::new(stream)
            }
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        // A server that closes may still have answered: only reading tells.
        let sent = stream.get_mut().write_all(request.as_bytes());
        let reply = read_reply(&mut stream).map_err(|lost| match (lost, sent) {
            (Lost::Unanswered(_), Err(error)) => Lost::Unanswered(error),
            (lost, _) => lost,
        })?;
        if !reply.closes {
            self.stream = Some(stream);
        }
        Ok(reply)
    }

    /// A request that a healthy server answers.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.ask(method, path, body).unwrap_or_else(|lost| panic!("{method} {path}: {lost:?}"))
    }
}

fn read_reply(stream: &mut BufReader<TcpStream>) -> Result<Reply, Lost> {
    let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
    match stream.fill_buf() {
        Ok([]) => return Err(Lost::Unanswered(end())),
        Ok(_) => {}
        Err(error) => return Err(Lost::Unanswered(error)),
    }
    let broken = |error: io::Error| Lost::Broken(error.to_string());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut head).map_err(broken)? == 0 {
            return Err(Lost::Broken(format!("head ends early: {:?}", String::from_utf8_lossy(&head))));
        }
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status: u16 = status.ok_or_else(|| Lost::Broken(head.clone()))?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = match (status, field("content-length:")) {
        (204, None) => 0,
        (_, Some(length)) => length.parse().map_err(|_| Lost::Broken(head.clone()))?,
        (_, None) => return Err(Lost::Broken(format!("no length: {head}"))),
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(broken)?;
    Ok(Reply { status, body, closes: field("connection:") == Some("close") })
}
