import java.io.IOException;
import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;

/** Fetches a URL over a plain socket, which in Java is an IPv6 one also for an IPv4 address, and prints the body. */
class Client {
    public static void main(String[] arguments) throws IOException {
        URI uri = URI.create(arguments[0]);
        String host = uri.getHost().replace("[", "").replace("]", "");
        try (Socket socket = new Socket(host, uri.getPort())) {
            String request = "GET / HTTP/1.1\r\nHost: " + uri.getHost() + "\r\nConnection: close\r\n\r\n";
            socket.getOutputStream().write(request.getBytes(StandardCharsets.US_ASCII));
            String answer = new String(socket.getInputStream().readAllBytes(), StandardCharsets.US_ASCII);
            System.out.print(answer.substring(answer.indexOf("\r\n\r\n") + 4));
        }
    }
}
