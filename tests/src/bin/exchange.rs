//! An HTTP client to run as a workload: reads a JSON list of [`redial_tests::exchange::Task`]s from its input, does
//! them all, several at once, and prints a JSON list of [`redial_tests::exchange::Answer`]s.

use std::io::{Write, stdin, stdout};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use redial_tests::exchange::{Answer, Task};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// How many connections are under way at a time.
const AT_ONCE: usize = 60;
/// Between one task and the next: a crowd that comes at once would slow itself down.
const APART: Duration = Duration::from_millis(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let tasks: Vec<Task> = serde_json::from_reader(stdin().lock())?;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for task in tasks {
        let is_too_many = task.copies.is_some_and(|copies| copies > AT_ONCE);
        ensure!(!is_too_many, "{}: more than {AT_ONCE} copies", task.name);
        sleep(APART).await;
        let room = Arc::clone(&room);
        running.push(tokio::spawn(async move {
            let copies = u32::try_from(task.copies.unwrap_or(1))?;
            // All copies or none: they are to be at once.
            let _place = room.acquire_many_owned(copies).await?;
            let copies = (0..copies).map(|copy| {
                let mut client = task.client.clone();
                if task.copies.is_some() {
                    client.requests.iter_mut().for_each(|request| request.path += &copy.to_string());
                }
                let (protocol, to) = (task.protocol, task.to);
                tokio::spawn(async move { client.run(protocol, to).await })
            });
            let copies: Vec<_> = copies.collect();
            let mut seen = Vec::new();
            for copy in copies {
                seen.push(copy.await?);
            }
            anyhow::Ok(Answer { name: task.name, seen })
        }));
    }
    let mut answers = Vec::new();
    for task in running {
        answers.push(task.await??);
    }
    writeln!(stdout(), "{}", serde_json::to_string(&answers)?)?;
    Ok(())
}
