//! A process of its own that gets signals: the drain as a balancer sees it.

use crate::wire::{Client, PATIENCE, Seen, TestHandler, eventually};
use longbow::admin::Admin;
use longbow::config::Config;
use longbow::http::{Listener, Settings};
use longbow::meters::Meters;
use longbow::runtime;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use tokio::net::TcpStream;

const CHILD: &str = "LONGBOW_TEST_CHILD";

/// Not a test of its own: the process that the tests below start and signal.
#[test]
fn child() {
    let Ok(delay_ms) = std::env::var(CHILD) else { return };
    let mut config = Config::default();
    config.http.listen.set_port(0);
    config.admin.listen.set_port(0);
    config.drain.delay_ms = delay_ms.parse().unwrap();
    let code = runtime::run(config, |config, lifecycle| async move {
        let meters = Arc::new(Meters::new());
        let public = Listener::bind(Settings::public(&config), meters.clone(), lifecycle.clone())?;
        let settings = Settings::admin(&config);
        let app = Arc::new(crate::admin::Memory::default());
        let handler = Admin::new(app, Arc::new(config), meters.clone(), lifecycle.clone());
        let admin = runtime::serve_on_thread("admin", settings, meters, lifecycle.clone(), handler)?;
        lifecycle.serving();
        println!("\nbound {} {}", public.address()?, admin.address);
        let release = Arc::new(tokio::sync::Semaphore::new(0));
        public.serve(TestHandler { seen: Arc::new(Seen::default()), release }).await;
        admin.join();
        Ok(())
    });
    assert_eq!(code.unwrap(), ExitCode::SUCCESS);
}

struct Process {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
    /// Kept open: the child's harness prints its result at the end.
    _out: BufReader<ChildStdout>,
}

impl Process {
    fn start(delay_ms: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["signals::child", "--exact", "--nocapture"])
            .env(CHILD, delay_ms.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let line =
            out.by_ref().lines().map(Result::unwrap).find(|line| line.starts_with("bound ")).expect("the child serves");
        let mut words = line.split(' ').skip(1).map(|word| word.parse().unwrap());
        Self { http: words.next().unwrap(), admin: words.next().unwrap(), child, _out: out }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the end of the process", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        })
        .await;
        code.unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(address: SocketAddr) -> Client {
    Client::from(TcpStream::connect(address).await.unwrap())
}

#[tokio::test]
async fn sigterm_says_not_ready_serves_on_and_ends_with_0() {
    let mut process = Process::start(700);
    assert_eq!(connect(process.admin).await.get("/readyz").await.status, 200);
    process.signal(Signal::TERM);
    let not_ready = async { while connect(process.admin).await.get("/readyz").await.status != 503 {} };
    tokio::time::timeout(PATIENCE, not_ready).await.unwrap();
    let reply = connect(process.http).await.get("/still").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")), "served while balancers notice");
    assert_eq!(process.exit_code().await, Some(0));
    assert!(TcpStream::connect(process.http).await.is_err());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut process = Process::start(600_000);
    let mut stuck = connect(process.http).await;
    stuck.send("GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await;
    process.signal(Signal::INT);
    let not_ready = async { while connect(process.admin).await.get("/readyz").await.status != 503 {} };
    tokio::time::timeout(PATIENCE, not_ready).await.unwrap();
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, Some(130));
}
