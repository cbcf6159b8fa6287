//! Who does not read is not written to.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::rig::{Rig, any_method, get, post, read_all, run, send_all, status};
use crate::policy::HttpPolicy;
use crate::retry::request::Condition;

const MANY: usize = 16 << 20;
/// What windows, buffers and wires hold, and what redial reads ahead or keeps.
const BOUND: usize = 2 << 20;

/// Writes as much as it can, and says how much that is.
fn writing(mut out: SendStream<Bytes>) -> (Rc<Cell<usize>>, JoinHandle<()>) {
    let written = Rc::new(Cell::new(0));
    let counter = Rc::clone(&written);
    let writer = spawn_local(async move {
        while counter.get() < MANY {
            send_all(&mut out, Bytes::from(vec![7; 16 * 1024]), false).await.unwrap();
            counter.set(counter.get() + 16 * 1024);
        }
        out.send_data(Bytes::new(), true).unwrap();
    });
    (written, writer)
}

#[test]
fn a_client_that_does_not_read_stops_the_upstream() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        let (written, writer) = writing(upstream.next().await.1.send_response(status(200), false).unwrap());
        let mut response = response.await.unwrap();
        sleep(Duration::from_mins(1)).await;
        assert!(written.get() < BOUND, "{}", written.get());

        // Others are not stopped by that.
        let (other, _) = rig.send(get("/other"), true);
        let mut out = upstream.next().await.1.send_response(status(200), false).unwrap();
        let sending = spawn_local(async move { send_all(&mut out, vec![1; 16 * 1024].into(), true).await });
        assert_eq!(read_all(other.await.unwrap().body_mut()).await.unwrap().0.len(), 16 * 1024);
        sending.await.unwrap().unwrap();

        assert_eq!(read_all(response.body_mut()).await.unwrap().0.len(), MANY);
        writer.await.unwrap();
    });
}

#[test]
fn an_upstream_that_does_not_read_stops_the_client() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, out) = rig.send(post("/"), false);
        let (written, writer) = writing(out);
        let mut upstream = rig.upstream().await;
        let (mut request, mut respond) = upstream.next().await;
        sleep(Duration::from_mins(1)).await;
        assert!(written.get() < BOUND, "{}", written.get());
        assert!(rig.buffers.used() < BOUND);
        assert_eq!(read_all(request.body_mut()).await.unwrap().0.len(), MANY);
        writer.await.unwrap();
        respond.send_response(status(200), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

/// Messages so small that each is more to keep than to say.
fn small(out: &mut SendStream<Bytes>, count: usize) {
    for index in 0..count {
        out.send_data(Bytes::from(format!("{index:09}\n")), false).unwrap();
    }
    out.send_data(Bytes::new(), true).unwrap();
}

fn all_small(count: usize) -> Vec<u8> {
    (0..count).flat_map(|index| format!("{index:09}\n").into_bytes()).collect()
}

#[test]
fn small_messages_that_nobody_reads_yet_are_no_attack() {
    run(async {
        let mut rig = Rig::new(HttpPolicy::default()).await;
        let (response, _) = rig.send(get("/"), true);
        let mut upstream = rig.upstream().await;
        let mut out = upstream.next().await.1.send_response(status(200), false).unwrap();
        small(&mut out, 50_000);
        let mut response = response.await.unwrap();
        sleep(Duration::from_mins(1)).await;
        assert!(read_all(response.body_mut()).await.unwrap().0 == all_small(50_000));
    });
}

#[test]
fn small_messages_are_sent_again() {
    run(async {
        let mut rig = Rig::new(any_method(&[Condition::ServerError])).await;
        let (response, mut out) = rig.send(post("/"), false);
        small(&mut out, 50_000);
        let mut upstream = rig.upstream().await;
        for code in [500, 200] {
            let (mut request, mut respond) = upstream.next().await;
            assert!(read_all(request.body_mut()).await.unwrap().0 == all_small(50_000));
            respond.send_response(status(code), true).unwrap();
        }
        assert_eq!(response.await.unwrap().status(), 200);
    });
}
