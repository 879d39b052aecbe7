// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Collection;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.Collectors;

/** A store over HTTP that keeps everything in the heap, with the JDK's own server. */
public final class Store {
    private static final long TICK_MILLIS = 50;
    private static final long JUMP_NANOS = TimeUnit.MINUTES.toNanos(5);

    private final String identity = ProcessHandle.current().pid() + "-" + UUID.randomUUID();
    private final ConcurrentHashMap<String, byte[]> values = new ConcurrentHashMap<>();
    private final ConcurrentLinkedQueue<String> problems = new ConcurrentLinkedQueue<>();
    private final AtomicLong ticks = new AtomicLong();
    private long last = System.nanoTime();

    public static void main(String[] args) throws IOException {
        new Store().serve();
    }

    private void serve() throws IOException {
        ScheduledExecutorService timer = Executors.newScheduledThreadPool(2);
        timer.scheduleAtFixedRate(this::tick, 0, TICK_MILLIS, TimeUnit.MILLISECONDS);
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 128);
        server.createContext("/kv/", this::keys);
        server.createContext("/self", this::self);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }

    private synchronized void tick() {
        long now = System.nanoTime();
        if (now < last) {
            problems.add("the monotonic clock went back by " + (last - now) + " ns");
        } else if (now - last > JUMP_NANOS) {
            problems.add("the monotonic clock jumped by " + (now - last) + " ns");
        }
        last = now;
        ticks.incrementAndGet();
    }

    private void keys(HttpExchange e) throws IOException {
        String name = e.getRequestURI().getPath().substring("/kv/".length());
        if (e.getRequestMethod().equals("PUT")) {
            values.put(name, e.getRequestBody().readAllBytes());
            answer(e, 201, new byte[0]);
        } else if (name.isEmpty()) {
            answer(e, 200, json(values.keySet()).getBytes(StandardCharsets.UTF_8));
        } else {
            byte[] value = values.get(name);
            answer(e, value == null ? 404 : 200, value == null ? new byte[0] : value);
        }
    }

    private void self(HttpExchange e) throws IOException {
        String body = "{\"identity\":\"" + identity + "\",\"progress\":" + ticks + ",\"problems\":" + json(problems) + "}";
        answer(e, 200, body.getBytes(StandardCharsets.UTF_8));
    }

    private static String json(Collection<String> list) {
        return list.stream().map(s -> '"' + s + '"').collect(Collectors.joining(",", "[", "]"));
    }

    private static void answer(HttpExchange e, int status, byte[] body) throws IOException {
        e.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
        e.getResponseBody().write(body);
        e.close();
    }
}
