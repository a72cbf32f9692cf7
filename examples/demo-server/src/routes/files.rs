//! `GET /files/{path}`: files in the directory of `--files`.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use axum::{
    extract::{Request, State as Shared},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode_str;
use tower_http::services::ServeFile;

use crate::{State, problem::Problem};

/// Streams one file. tower-http handles Range, conditional requests and HEAD.
///
/// The response is the same 404 for a missing file, a directory, a device, and anything outside of the directory, so
/// that clients cannot find out what exists.
pub(crate) async fn files(
    Shared(state): Shared<State>,
    request: Request,
) -> Result<Response, Problem> {
    let Some(root) = &state.args.files else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no files are served: start the server with --files DIR",
        ));
    };
    let path = request.uri().path();
    let file = resolve(root, path.strip_prefix("/files/").unwrap_or(path))
        .await
        .ok_or_else(not_found)?;
    let response = ServeFile::new(file)
        .ignore_multi_range_requests(true)
        .try_call(request)
        .await
        .map_err(|error| refused(&error))?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(not_found());
    }
    Ok(response.into_response())
}

/// The regular file that `encoded` names, if it is inside of `root` after all symlinks are followed. `root` contains no
/// symlink.
///
/// The check and the opening are not atomic: a process that can write to `root` can swap the file in between.
async fn resolve(root: &Path, encoded: &str) -> Option<PathBuf> {
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    let relative = Path::new(&*decoded);
    let plain = |part| matches!(part, Component::Normal(_));
    if !relative.components().all(plain) {
        return None;
    }
    let resolved = tokio::fs::canonicalize(root.join(relative)).await.ok()?;
    // Opening a pipe would wait for a writer, and a device may never end.
    let regular = tokio::fs::metadata(&resolved).await.ok()?.is_file();
    (regular && resolved.starts_with(root)).then_some(resolved)
}

fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such file")
}

fn refused(error: &io::Error) -> Problem {
    tracing::warn!(%error, "file not readable");
    match error.kind() {
        io::ErrorKind::NotFound => not_found(),
        io::ErrorKind::PermissionDenied => {
            Problem::new(StatusCode::FORBIDDEN, "the server may not read this file")
        }
        _ => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the file could not be read",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use axum::http::header;
    use tempfile::TempDir;

    use crate::{
        Args,
        testing::{Answer, get_with, send},
    };

    /// `outer/secret` next to the served `outer/root`, which has a file, a directory and symlinks.
    fn tree() -> (TempDir, Args) {
        let outer = TempDir::new().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("dir")).unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        std::fs::write(root.join("a b.txt"), "0123456789").unwrap();
        std::fs::write(root.join("dir/inner.json"), "{}").unwrap();
        symlink(outer.path().join("secret"), root.join("out")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("dir/inner.json", root.join("in")).unwrap();
        let args = Args {
            files: Some(root),
            ..Args::default()
        };
        (outer, args)
    }

    async fn get(args: &Args, path: &str) -> Answer {
        get_with(args.clone(), path).await
    }

    #[tokio::test]
    async fn serves_a_file_with_its_type_and_length() {
        let (_outer, args) = tree();
        let answer = get(&args, "/files/a%20b.txt").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "text/plain");
        assert_eq!(answer.header("content-length"), "10");
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.text(), "0123456789");
        let answer = get(&args, "/files/dir/inner.json").await;
        assert_eq!((answer.status, answer.text()), (200, "{}"));
    }

    #[tokio::test]
    async fn serves_a_range_and_refuses_one_past_the_end() {
        let (_outer, args) = tree();
        let range = |range: &str| {
            axum::http::Request::get("/files/a%20b.txt")
                .header(header::RANGE, range)
                .body(axum::body::Body::empty())
                .unwrap()
        };
        let part = send(args.clone(), range("bytes=2-4")).await;
        assert_eq!((part.status, part.text()), (206, "234"));
        assert_eq!(part.header("content-range"), "bytes 2-4/10");
        let past = send(args.clone(), range("bytes=10-")).await;
        assert_eq!(past.status, 416);
        assert_eq!(past.header("content-range"), "bytes */10");
        let several = send(args, range("bytes=0-1,4-5")).await;
        assert_eq!((several.status, several.text()), (200, "0123456789"));
    }

    #[tokio::test]
    async fn nothing_outside_the_directory_is_served() {
        let (_outer, args) = tree();
        for path in [
            "/files/../secret",
            "/files/%2e%2e/secret",
            "/files/..%2fsecret",
            "/files/dir/../../secret",
            "/files/dir/../a%20b.txt",
            "/files/%2fetc%2fpasswd",
            "/files//etc/passwd",
            "/files/out",
            "/files/up/secret",
            "/files/a%20b.txt%00",
            "/files/%ff",
        ] {
            let answer = get(&args, path).await;
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }

    #[tokio::test]
    async fn a_symlink_that_stays_inside_is_followed() {
        let (_outer, args) = tree();
        assert_eq!(get(&args, "/files/in").await.text(), "{}");
        assert_eq!(get(&args, "/files/up/root/in").await.status, 200);
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_not_found() {
        let (outer, args) = tree();
        for path in ["/files/dir", "/files/dir/", "/files/none", "/files/in/"] {
            assert_eq!(get(&args, path).await.status, 404, "{path}");
        }
        let socket = outer.path().join("root/socket");
        let _bound = std::os::unix::net::UnixListener::bind(socket).unwrap();
        assert_eq!(get(&args, "/files/socket").await.status, 404);
    }

    #[tokio::test]
    async fn without_a_directory_the_answer_says_which_flag() {
        let answer = get(&Args::default(), "/files/x").await;
        assert_eq!(answer.status, 404);
        assert!(
            answer.json()["detail"]
                .as_str()
                .unwrap()
                .contains("--files")
        );
    }
}
