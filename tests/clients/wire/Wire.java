import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.Arrays;
import java.util.HexFormat;

/** Asks for everything with java.net.http, as HTTP_1_1 or as HTTP_2, which is how it comes: it tries to upgrade to h2c. */
class Wire {
    static String base;

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        HttpClient.Version version = HttpClient.Version.valueOf(arguments[1]);
        HttpClient client = HttpClient.newBuilder().version(version).build();
        for (String path : "/plain /chunked /none /plain /old /large /large-chunked".split(" ")) {
            show(client, "GET", path, BodyPublishers.noBody(), false);
        }
        show(client, "HEAD", "/plain", BodyPublishers.noBody(), false);
        show(client, "POST", "/plain", BodyPublishers.ofString("a body of known length"), false);
        byte[] much = new byte[300_000];
        Arrays.fill(much, (byte) 'z');
        show(client, "POST", "/plain", BodyPublishers.ofByteArray(much), false);
        ByteArrayInputStream stream = new ByteArrayInputStream(much);
        show(client, "POST", "/chunked", BodyPublishers.ofInputStream(() -> stream), false);
        show(client, "POST", "/continue", BodyPublishers.ofString("waited for"), true);
        show(client, "DELETE", "/none", BodyPublishers.noBody(), false);
    }

    static void show(HttpClient client, String method, String path, BodyPublisher body, boolean waits)
            throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(base + path))
                .method(method, body)
                .expectContinue(waits)
                .timeout(Duration.ofSeconds(20))
                .build();
        HttpResponse<byte[]> response = client.send(request, BodyHandlers.ofByteArray());
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(response.body());
        System.out.println(method + " " + path + " " + response.statusCode() + " " + response.version() + " "
                + response.headers().map() + " " + HexFormat.of().formatHex(digest));
    }
}
