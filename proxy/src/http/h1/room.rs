//! Room to read into, which the connections of a thread lend each other.
//!
//! A connection that waits for more to read holds what it has read and has not passed on, and no room beside that:
//! thousands of slow ones cost little, and one that is fast takes the room that the last one gave back.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much is read at once, if there is that much: an answer of this size takes one read and one write.
const SIZE: usize = 64 * 1024;
/// What is less than this is copied, so that the room it is in can be given back.
const LITTLE: usize = 4 * 1024;
/// How many rooms a thread keeps that nobody has taken.
const KEPT: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads what there is, and where there is nothing gives the room back.
pub fn poll_read(
    cx: &mut Context<'_>,
    stream: &mut (impl AsyncRead + Unpin),
    read: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    take(read);
    let polled = pin!(stream.read_buf(read)).poll(cx);
    if polled.is_pending() {
        give_back(read);
    }
    polled
}

/// Keeps what was read, and no room beside it.
pub fn give_back(read: &mut BytesMut) {
    // What is left of room of which a part is still in use is as good as all of it: it is whole again once it is free.
    let is_room = read.capacity() >= SIZE / 2 || read.try_reclaim(SIZE / 2);
    if !is_room || read.len() > LITTLE {
        return;
    }
    let kept = BytesMut::from(read.as_ref());
    let mut room = std::mem::replace(read, kept);
    room.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < KEPT {
            spare.push(room);
        }
    });
}

fn take(read: &mut BytesMut) {
    if read.capacity() - read.len() >= SIZE / 4 {
        return;
    }
    if read.len() < LITTLE
        && let Some(mut room) = SPARE.with_borrow_mut(Vec::pop)
    {
        room.reserve(SIZE);
        room.extend_from_slice(read);
        *read = room;
    } else {
        read.reserve(SIZE);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use bytes::{Buf as _, BytesMut};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::{KEPT, LITTLE, SIZE, SPARE, give_back, poll_read, take};

    fn spare() -> usize {
        SPARE.with_borrow(Vec::len)
    }

    #[tokio::test]
    async fn who_waits_holds_what_was_read_and_no_room() {
        let (mut writing, mut reading) = duplex(SIZE);
        let mut read = BytesMut::new();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(poll_read(&mut cx, &mut reading, &mut read).is_pending());
        assert_eq!((read.capacity(), spare()), (0, 1));
        writing.write_all(b"GET /").await.unwrap();
        assert!(matches!(poll_read(&mut cx, &mut reading, &mut read), Poll::Ready(Ok(5))));
        assert_eq!(spare(), 0);
        assert!(poll_read(&mut cx, &mut reading, &mut read).is_pending());
        assert_eq!((read.as_ref(), spare()), (b"GET /".as_slice(), 1));
        assert!(read.capacity() < LITTLE);
        writing.write_all(b" HTTP/1.1").await.unwrap();
        assert!(matches!(poll_read(&mut cx, &mut reading, &mut read), Poll::Ready(Ok(9))));
        assert_eq!(read, b"GET / HTTP/1.1".as_slice());
    }

    #[test]
    fn room_is_used_again_and_never_while_it_is_in_use() {
        let mut read = BytesMut::new();
        take(&mut read);
        let room = read.as_ptr();
        read.extend_from_slice(&vec![b'.'; SIZE]);
        let passed_on = read.split().freeze();
        give_back(&mut read);
        take(&mut read);
        assert_ne!(read.as_ptr(), room);
        drop(passed_on);

        for length in [4, SIZE] {
            let room = read.as_ptr();
            read.extend_from_slice(&vec![b'.'; length]);
            read.advance(length);
            give_back(&mut read);
            assert_eq!((read.capacity(), spare()), (0, 1));
            take(&mut read);
            assert_eq!((read.as_ptr(), read.capacity(), spare()), (room, SIZE, 0));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut all: Vec<_> = (0..2 * KEPT).map(|_| BytesMut::with_capacity(SIZE)).collect();
        all.iter_mut().for_each(give_back);
        assert_eq!(spare(), KEPT);
        let mut much = BytesMut::with_capacity(SIZE);
        much.extend_from_slice(&vec![b'.'; LITTLE + 1]);
        give_back(&mut much);
        assert_eq!(much.len(), LITTLE + 1);
    }
}
