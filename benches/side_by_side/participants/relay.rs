//! What does it cost to pass bytes on? The floor: it knows nothing of requests, and has a backend connection for each
//! client connection.

use std::path::Path;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};

pub(super) async fn serve(listener: TcpListener, socket: &Path) -> anyhow::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        let socket = socket.to_owned();
        tokio::task::spawn_local(async move {
            if let Ok(mut backend) = UnixStream::connect(socket).await {
                // An end that is not a good one ends it, too; the load tells if it should not have been.
                let _ended = copy_bidirectional(&mut client, &mut backend).await;
            }
        });
    }
}
