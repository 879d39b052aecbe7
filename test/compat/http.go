// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/test/harness/redisload"
	"godwit.dev/godwit/test/workloads/kv"
)

// self is what a server says of itself.
type self = kv.Self

// httpClient is the client of a store over HTTP.
type httpClient struct {
	base string
	// quick is for what users wait for, patient for much data.
	quick, patient *http.Client
	self           func(ctx context.Context, c *httpClient) (self, error)
}

func newHTTP(address string, ask func(context.Context, *httpClient) (self, error)) *httpClient {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: redisload.DialTimeout}).DialContext,
		MaxIdleConnsPerHost: 2,
	}
	return &httpClient{
		base:    "http://" + address,
		quick:   &http.Client{Transport: transport, Timeout: redisload.OperationTimeout},
		patient: &http.Client{Transport: transport, Timeout: time.Minute},
		self:    ask,
	}
}

func connectHTTP(_ context.Context, address string) (client, error) {
	return newHTTP(address, askSelf), nil
}

func connectNginx(_ context.Context, address string) (client, error) {
	return newHTTP(address, askStatus), nil
}

// do returns the status and the body.
func (c *httpClient) do(ctx context.Context, by *http.Client, method, path string, body []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	res, err := by.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

func path(key string) string { return "/kv/" + url.PathEscape(key) }

func (c *httpClient) put(ctx context.Context, by *http.Client, key string, value []byte) error {
	code, body, err := c.do(ctx, by, http.MethodPut, path(key), value)
	if err == nil && code/100 != 2 {
		err = fmt.Errorf("PUT %s: status %d: %s", key, code, body)
	}
	return err
}

// Set implements redisload.Store.
func (c *httpClient) Set(ctx context.Context, key string, value []byte) error {
	return c.put(ctx, c.quick, key, value)
}

// SetMany implements redisload.Store.
func (c *httpClient) SetMany(ctx context.Context, keys []string, values [][]byte) error {
	for i, key := range keys {
		if err := c.put(ctx, c.patient, key, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// Get implements redisload.Store.
func (c *httpClient) Get(ctx context.Context, keys ...string) ([][]byte, error) {
	by := c.quick
	if len(keys) > 1 {
		by = c.patient
	}
	values := make([][]byte, len(keys))
	for i, key := range keys {
		code, body, err := c.do(ctx, by, http.MethodGet, path(key), nil)
		switch {
		case err != nil:
			return nil, err
		case code == http.StatusOK:
			values[i] = body
		case code != http.StatusNotFound:
			return nil, fmt.Errorf("GET %s: status %d: %s", key, code, body)
		}
	}
	return values, nil
}

// Size implements redisload.Store.
func (c *httpClient) Size(ctx context.Context) (int, error) {
	code, body, err := c.do(ctx, c.patient, http.MethodGet, "/kv/", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET /kv/: status %d: %s", code, body)
	}
	var list []json.RawMessage
	if err == nil {
		err = json.Unmarshal(body, &list)
	}
	return len(list), err
}

// Self implements client.
func (c *httpClient) Self(ctx context.Context) (self, error) { return c.self(ctx, c) }

// Close implements client.
func (c *httpClient) Close() { c.quick.CloseIdleConnections() }

func askSelf(ctx context.Context, c *httpClient) (s self, err error) {
	code, body, err := c.do(ctx, c.patient, http.MethodGet, "/self", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET /self: status %d: %s", code, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// askStatus reads nginx's count of requests: it lies in memory that the workers share,
// and begins with nothing when nginx is started.
func askStatus(ctx context.Context, c *httpClient) (self, error) {
	code, body, err := c.do(ctx, c.patient, http.MethodGet, "/status", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET /status: status %d: %s", code, body)
	}
	if err != nil {
		return self{}, err
	}
	return parseStatus(string(body))
}

func parseStatus(body string) (self, error) {
	_, counts, ok := strings.Cut(body, "server accepts handled requests")
	fields := strings.Fields(counts)
	if !ok || len(fields) < 3 {
		return self{}, fmt.Errorf("nginx's status is %q", body)
	}
	n, err := strconv.ParseUint(fields[2], 10, 64)
	return self{Identity: "nginx", Progress: n}, err
}

// httpSession is a connection that is kept alive.
type httpSession struct {
	conn net.Conn
	in   *bufio.Reader
	path string
}

func dialHTTP(program string) func(context.Context, string) (session, error) {
	path := "/self"
	if program == "nginx" {
		path = "/status"
	}
	return func(ctx context.Context, address string) (session, error) {
		conn, err := (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return &httpSession{conn, bufio.NewReader(conn), path}, nil
	}
}

// Ask implements session.
func (s *httpSession) Ask(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.Close)()
	if _, err := fmt.Fprintf(s.conn, "GET %s HTTP/1.1\r\nHost: compat\r\n\r\n", s.path); err != nil {
		return err
	}
	res, err := http.ReadResponse(s.in, nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// Close implements session.
func (s *httpSession) Close() { _ = s.conn.Close() }
