# Go's net/http: resp.Trailer has the digest; reading a broken promise is an error.
# debian: golang-go
. "$(dirname "$0")/../lib/check.sh"
go version
cd "$SCRATCH" || exit 1
cat >main.go <<'GO'
package main

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
)

func check(what string, good bool, why ...interface{}) {
	if good {
		fmt.Println("ok -", what)
	} else {
		fmt.Println("not ok -", what, why)
	}
}

func get(path string) (*http.Response, string, error) {
	request, err := http.NewRequest("GET", os.Getenv("DEMO_URL")+path, nil)
	if err != nil {
		panic(err)
	}
	request.Header.Set("TE", "trailers")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	sum := md5.Sum(body)
	return response, hex.EncodeToString(sum[:]), err
}

func main() {
	file, err := os.ReadFile(os.Getenv("SERVED_FILES") + "/random.bin")
	if err != nil {
		panic(err)
	}
	sum := md5.Sum(file)
	expected := hex.EncodeToString(sum[:])

	response, got, err := get("/files/random.bin")
	check("a file arrives whole", err == nil && got == expected, err, got)
	check("resp.Trailer has its digest", response.Trailer.Get("X-Content-MD5") == expected, response.Trailer)

	response, got, err = get("/bytes?size=100")
	check("a short body has it in the head", err == nil && response.Header.Get("X-Content-MD5") == got, response.Header)

	for _, length := range []string{"0", "1"} {
		response, got, err = get("/promise?size=1000000&length=" + length)
		check("a kept promise, length="+length, err == nil && response.Header.Get("X-Content-MD5") == got, err)
		_, _, err = get("/promise?size=1000000&corrupt=1&length=" + length)
		check("a broken promise is an error, length="+length, err != nil, "it looked whole")
		fmt.Println("  ", err)
	}
	response, _, err = get("/promise?size=1000&corrupt=1")
	check("broken and short is a 502", err == nil && response.StatusCode == 502, err)
}
GO
GOCACHE=$SCRATCH/cache GOFLAGS=-mod=mod GO111MODULE=off go run main.go
