//! Proxies that speak SOCKS 5 (RFC 1928, with accounts as in RFC 1929).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ingle_egress::{EgressError, Policy, Proxies, Request};
use ingle_testkit::http::{Reply, Server};

use super::{brisk, client_of, config, open_policy, target, text};

/// What a proxy was asked: account, host, port.
type Asked = Arc<Mutex<Vec<(String, String, u16)>>>;

/// A proxy that wants an account, and leads to the same place whatever it is asked for.
fn proxy(to: SocketAddr) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, asked) = (listener.local_addr().expect("bound"), Asked::default());
    let noted = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let noted = noted.clone();
            std::thread::spawn(move || serve(client, to, &noted));
        }
    });
    (address, asked)
}

fn serve(mut client: TcpStream, to: SocketAddr, noted: &Asked) -> std::io::Result<()> {
    let [_, n_methods] = take(&mut client)?;
    let mut methods = vec![0; n_methods.into()];
    client.read_exact(&mut methods)?;
    if !methods.contains(&2) {
        return client.write_all(&[5, 0xff]);
    }
    client.write_all(&[5, 2])?;
    let [_] = take(&mut client)?;
    let account = format!("{}:{}", string(&mut client)?, string(&mut client)?);
    client.write_all(&[1, 0])?;
    let [_, command, _, kind] = take(&mut client)?;
    assert_eq!(command, 1, "CONNECT");
    let host = match kind {
        3 => string(&mut client)?,
        _ => "an address".to_owned(),
    };
    let port = u16::from_be_bytes(take(&mut client)?);
    noted.lock().expect("no panic").push((account, host, port));
    let mut server = TcpStream::connect(to)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    std::io::copy(&mut server, &mut client).map(drop)
}

fn take<const N: usize>(stream: &mut TcpStream) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A length in a byte, and so many.
fn string(stream: &mut TcpStream) -> std::io::Result<String> {
    let [n] = take(stream)?;
    let mut bytes = vec![0; n.into()];
    stream.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Names go to the proxy as they are, with both spellings; what is written as an address is judged before.
#[tokio::test]
async fn names_are_resolved_by_the_proxy() {
    let server = Server::start(|request| Reply::new(200, "text/plain", request.path.clone().into_bytes()));
    for scheme in ["socks5", "socks5h"] {
        let (address, asked) = proxy(server.address());
        let url = format!("{scheme}://me:s3%40cret@{address}");
        let mut config = config(Policy { private: Vec::new(), ..open_policy() });
        let vars = |name: &str| (name == "all_proxy").then(|| url.clone());
        config.proxies = Arc::new(Proxies::from_vars(vars).unwrap());
        let client = client_of(config);
        let request = Request::get(target("http://hub.test:9/a")).backoff(brisk(1));
        assert_eq!(text(client.send(&request).await).await, "/a");
        let found = || std::mem::take(&mut *asked.lock().expect("no panic"));
        assert_eq!(found(), [("me:s3@cret".to_owned(), "hub.test".to_owned(), 9)]);
        for url in ["http://10.0.0.1/", "http://127.0.0.1:1/", "https://169.254.169.254/"] {
            let outcome = client.send(&Request::get(target(url)).backoff(brisk(1))).await;
            assert!(matches!(outcome, Err(EgressError::Address { .. })), "{url}");
        }
        assert_eq!(found(), [], "none of these was asked for");
    }
}
