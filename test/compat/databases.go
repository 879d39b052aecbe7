// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"godwit.dev/godwit/test/harness/redisload"
)

// redisClient is redisload's.
type redisClient struct{ *redisload.Client }

func connectRedis(_ context.Context, address string) (client, error) {
	return redisClient{redisload.Connect(address)}, nil
}

// Self implements client. The count of keys stands for progress: the load adds some.
func (c redisClient) Self(ctx context.Context) (self, error) {
	id, err := c.Identity(ctx)
	if err != nil {
		return self{}, err
	}
	n, err := c.Size(ctx)
	return self{Identity: fmt.Sprintf("%d-%s", id.PID, id.RunID), Progress: uint64(n)}, err
}

// Close implements client.
func (c redisClient) Close() { _ = c.Client.Close() }

// redisSession sends PINGs.
type redisSession struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialRedis(ctx context.Context, address string) (session, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &redisSession{conn, bufio.NewReader(conn)}, nil
}

// Ask implements session.
func (s *redisSession) Ask(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.Close)()
	if _, err := fmt.Fprint(s.conn, "PING\r\n"); err != nil {
		return err
	}
	_, err := s.in.ReadString('\n')
	return err
}

// Close implements session.
func (s *redisSession) Close() { _ = s.conn.Close() }

// pgClient works on a table.
type pgClient struct{ pool *pgxpool.Pool }

// pgConfig does what is asked for in one round trip. Nothing is prepared: a session that
// breaks would take that with it.
func pgURL(address string) string {
	return "postgres://postgres@" + address + "/postgres?sslmode=disable&default_query_exec_mode=exec"
}

func connectPostgres(_ context.Context, address string) (client, error) {
	config, err := pgxpool.ParseConfig(pgURL(address) + "&pool_max_conns=3&connect_timeout=1")
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	return pgClient{pool}, err
}

const (
	createTable = `CREATE TABLE IF NOT EXISTS kv (key text PRIMARY KEY, value bytea NOT NULL)`
	upsert      = `INSERT INTO kv VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`
)

// Set implements redisload.Store.
func (c pgClient) Set(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, redisload.OperationTimeout)
	defer cancel()
	_, err := c.pool.Exec(ctx, upsert, key, value)
	return err
}

// SetMany implements redisload.Store. It is the first that is called.
func (c pgClient) SetMany(ctx context.Context, keys []string, values [][]byte) error {
	if _, err := c.pool.Exec(ctx, createTable); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		for i, key := range keys {
			if _, err := tx.Exec(ctx, upsert, key, values[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Get implements redisload.Store.
func (c pgClient) Get(ctx context.Context, keys ...string) ([][]byte, error) {
	if len(keys) == 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, redisload.OperationTimeout)
		defer cancel()
	}
	rows, err := c.pool.Query(ctx, `SELECT key, value FROM kv WHERE key = ANY($1)`, keys)
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	var key string
	var value []byte
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { found[key] = append([]byte{}, value...); return nil })
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = found[k]
	}
	return values, err
}

// Size implements redisload.Store.
func (c pgClient) Size(ctx context.Context) (n int, err error) {
	err = c.pool.QueryRow(ctx, `SELECT count(*) FROM kv`).Scan(&n)
	return n, err
}

// Self implements client. The write-ahead log only grows, as far as anything is written.
func (c pgClient) Self(ctx context.Context) (self, error) {
	var started time.Time
	var system int64
	var wal string
	err := c.pool.QueryRow(ctx, `SELECT pg_postmaster_start_time(), (SELECT system_identifier FROM pg_control_system()), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint::text`).
		Scan(&started, &system, &wal)
	if err != nil {
		return self{}, err
	}
	n, err := strconv.ParseUint(wal, 10, 64)
	return self{Identity: fmt.Sprintf("%d-%s", system, started.UTC().Format(time.RFC3339Nano)), Progress: n}, err
}

// Close implements client.
func (c pgClient) Close() { c.pool.Close() }

// pgSession is a session with a process of the server's own.
type pgSession struct{ conn *pgx.Conn }

func dialPostgres(ctx context.Context, address string) (session, error) {
	conn, err := pgx.Connect(ctx, pgURL(address))
	return pgSession{conn}, err
}

// Ask implements session.
func (s pgSession) Ask(ctx context.Context) error {
	_, err := s.conn.Exec(ctx, "SELECT 1")
	return err
}

// Close implements session.
func (s pgSession) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}
