//! A chat whose stream survives `kill -9` of the server that produces it. See README.md.

#![allow(clippy::print_stdout)] // an example shows what happens

mod client;
mod front;
mod model;
mod replica;

use std::{error::Error, io, net::SocketAddr, process::ExitCode};

use clap::Parser;
use tokio::{io::AsyncWriteExt, net::TcpListener};

use self::{client::Client, replica::Replica};

#[derive(Parser)]
struct Args {
    /// Share the log of the streams in this Redis (needs the feature `redis`)
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Share the log of the streams in the JetStream of this NATS server (needs the feature `nats`)
    #[arg(long, value_name = "URL", conflicts_with = "redis")]
    nats: Option<String>,
    /// What the example starts itself as: a server of the chat
    #[arg(long, hide = true)]
    replica: bool,
}

/// After this token the server that produces is killed, and after that one the connection of the client is cut.
const KILL_AT: usize = 15;
const CUT_AT: usize = 30;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.replica {
        true => replica::run(&args).await,
        false => play(&args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts two servers and a front, reads a chat through the front, and kills the server that produces it.
async fn play(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut replicas = [Replica::start(args).await?, Replica::start(args).await?];
    let addresses = [replicas[0].address, replicas[1].address];
    let is_shared = args.redis.is_some() || args.nats.is_some();
    let front = match is_shared {
        // The servers keep the stream, and the front only passes requests on.
        true => front::pass(addresses),
        // Each process has a memory of its own, so the front keeps the stream.
        false => front::keep(addresses),
    };
    let front = serve(front).await?;
    println!(
        "the log: {}",
        if is_shared {
            "shared by the servers"
        } else {
            "in memory, at the front"
        }
    );
    println!(
        "two servers, pids {} and {}; the front: http://{front}/chat/7\n",
        replicas[0].pid, replicas[1].pid
    );

    let mut client = Client::new(format!("http://{front}/chat/7"));
    let mut tokens = Vec::new();
    let mut servers = Vec::new();
    let mut out = tokio::io::stdout();
    while let Some(token) = client.next().await? {
        out.write_all(format!("{} ", token.text).as_bytes()).await?;
        out.flush().await?;
        if !servers.contains(&token.by) {
            servers.push(token.by);
        }
        tokens.push(token.text);
        if tokens.len() == KILL_AT {
            let producer = replicas.iter_mut().find(|replica| replica.pid == token.by);
            producer.ok_or("no server has this pid")?.kill().await?;
            out.write_all(format!("\n[kill -9 {}]\n", token.by).as_bytes())
                .await?;
        }
        if tokens.len() == CUT_AT {
            client.cut();
            out.write_all(b"\n[the client's connection is cut]\n")
                .await?;
        }
    }
    let expected: Vec<_> = model::tokens("7").collect();
    println!(
        "\n\nthe client has {} of {} tokens, from the servers {servers:?}, over {} connections",
        tokens.len(),
        expected.len(),
        client.connections
    );
    if client.gaps > 0 {
        // Not with `Durability::Stored`.
        return Err(format!("{} gaps", client.gaps).into());
    }
    match tokens == expected && servers.len() == 2 {
        true => {
            println!("every token once, in order");
            Ok(())
        }
        false => Err("tokens are missing, doubled or out of order".into()),
    }
}

/// Serves this app on a port of the system's choice.
async fn serve(app: axum::Router) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}
