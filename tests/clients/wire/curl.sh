# Asks for everything with curl, several requests on a connection, and prints what it got, heads and all. With h2c it asks
# with offers to upgrade only.
set -eu
base=$1
directory=$(mktemp -d)
trap 'rm -r "$directory"' EXIT
head -c 300000 /dev/zero | tr '\0' z > "$directory/much"
ask() { curl -sS --noproxy '*' -i --raw -H 'User-Agent: curl' --max-time 20 "$@" | sha256sum; }

if [ "${2:-}" = h2c ]; then
    ask --http2 "$base/plain" "$base/plain"
    exit
fi

ask "$base/plain" "$base/chunked" "$base/trailers" "$base/extensions" "$base/early" "$base/none" "$base/plain" "$base/old" "$base/old-kept" \
    "$base/plain"
ask "$base/large" "$base/large-chunked"
ask -H 'x-lower: 1' -H 'X-oDD-Case: 2' -H 'X-ODD-case: 3' -H 'X-Empty;' -H 'Accept:' "$base/plain"
ask -I "$base/plain"
ask -d 'a body of known length' "$base/plain" "$base/chunked"
ask --data-binary "@$directory/much" -H 'Expect:' "$base/plain"
ask --data-binary "@$directory/much" -H 'Expect: 100-continue' --expect100-timeout 10 "$base/continue"
ask -T - -H 'Expect:' -X POST "$base/chunked" < "$directory/much"
ask -0 "$base/plain"
ask -0 -H 'Connection: keep-alive' "$base/plain" "$base/old-kept"
ask -0 --http1.1 -X DELETE "$base/none"
ask --request-target '*' -X OPTIONS "$base/plain"
ask --request-target "http://absolute.test/plain" "$base/plain"
ask "$base/plain?query=1&other=%2F"
