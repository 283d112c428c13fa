//! The little HTTP/1.1 that load and server speak. Other clients and servers of HTTP understand it, so that the figures
//! can be checked against them.

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Bytes of the answer's body.
    pub(crate) size: usize,
    /// The connection ends with the answer.
    pub(crate) close: bool,
}

/// The text of a request.
pub(crate) fn request_text(request: Request) -> Vec<u8> {
    let Request { size, close } = request;
    let path = if close { format!("/{size}/close") } else { format!("/{size}") };
    format!("GET {path} HTTP/1.1\r\nHost: server\r\nUser-Agent: culvert-bench\r\n\r\n").into_bytes()
}

/// Reads one request from the front; `None` when it is not complete.
pub(crate) fn request(input: &[u8]) -> Option<(Request, &[u8])> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let path = input.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let digits = path.iter().skip(1).take_while(|byte| byte.is_ascii_digit());
    let size = digits.fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    Some((Request { size: size.min(16 << 20), close: path.ends_with(b"/close") }, &input[end..]))
}

/// The whole answer with a body of `size` bytes.
pub(crate) fn answer(size: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    answer.extend((0..size).map(|at| b'a' + u8::try_from(at % 23).unwrap_or_default()));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_what_is_read() {
        for request_in in [Request { size: 1024, close: false }, Request { size: 0, close: true }] {
            let mut text = request_text(request_in);
            assert_eq!(request(&text[..text.len() - 1]), None, "not complete");
            text.extend_from_slice(b"GET");
            assert_eq!(request(&text), Some((request_in, b"GET".as_slice())));
        }
    }

    #[test]
    fn an_answer_has_the_size_asked_for() {
        let answer = answer(16384);
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - body, 16384);
    }
}
