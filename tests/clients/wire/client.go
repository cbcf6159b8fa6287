// Asks for everything with net/http, on one client, and prints what it got.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

var client = &http.Client{
	Timeout:   20 * time.Second,
	Transport: &http.Transport{ExpectContinueTimeout: 10 * time.Second},
}

// A reader whose length net/http cannot know, so that it sends chunks.
type unsized struct{ io.Reader }

func show(method, path string, body io.Reader, headers ...string) {
	request, err := http.NewRequest(method, os.Args[1]+path, body)
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(headers); i += 2 {
		// Not Set(), which would write the name its own way.
		request.Header[headers[i]] = append(request.Header[headers[i]], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		panic(err)
	}
	fmt.Println(method, path, response.Status, response.Proto, response.Header, response.Trailer)
	fmt.Printf("%x\n", sha256.Sum256(content))
}

func main() {
	paths := "/plain /chunked /trailers /extensions /early /none /plain /old /old-kept /large /large-chunked"
	for _, path := range strings.Split(paths, " ") {
		show("GET", path, nil)
	}
	show("HEAD", "/plain", nil)
	show("POST", "/plain", strings.NewReader("a body of known length"))
	show("POST", "/plain", bytes.NewReader(bytes.Repeat([]byte("z"), 300_000)))
	show("POST", "/chunked", unsized{io.MultiReader(strings.NewReader("first"), strings.NewReader("second"))})
	show("POST", "/continue", strings.NewReader("waited for"), "Expect", "100-continue")
	show("PUT", "/plain", strings.NewReader("put"), "X-oDD-Case", "1", "x-odd-case", "2")
	show("DELETE", "/none", nil)
}
