// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package redisload

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// OperationTimeout and DialTimeout are the client's patience. A longer one
// would be seen as downtime: a request to a frozen server is answered by nobody.
const (
	OperationTimeout = time.Second
	DialTimeout      = 500 * time.Millisecond
)

// Client talks to a Redis server as applications do: over a pool of
// connections that is filled anew when one breaks.
type Client struct {
	redis *redis.Client
	// bulk is for operations on much data, which take longer.
	bulk *redis.Client
}

// Connect makes a client of the server at the address; it connects with the
// first operation.
func Connect(address string) *Client {
	options := redis.Options{
		Addr: address, Protocol: 3, PoolSize: 2,
		DialTimeout: DialTimeout, ReadTimeout: OperationTimeout, WriteTimeout: OperationTimeout,
		// The load tries again itself, so that it sees every failure.
		MaxRetries: -1, DialerRetries: 1,
	}
	bulk := options
	bulk.ReadTimeout, bulk.WriteTimeout, bulk.DialTimeout = time.Minute, time.Minute, 10*time.Second
	bulk.MaxRetries = 3
	return &Client{redis: redis.NewClient(&options), bulk: redis.NewClient(&bulk)}
}

// pingInterval is how often AwaitAnswer tries.
const pingInterval = 100 * time.Millisecond

// AwaitAnswer returns when the server answers: until the cluster has learned
// where a Service leads to, connections are refused.
func (c *Client) AwaitAnswer(ctx context.Context) error {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		err := c.redis.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the server to answer: %w; its last error: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// silence keeps the library from telling of every connection that breaks:
// that they do is what the tests are about.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(silence{}) }

// Close closes all connections.
func (c *Client) Close() error {
	if err := c.bulk.Close(); err != nil {
		return err
	}
	return c.redis.Close()
}

// Set implements Store.
func (c *Client) Set(ctx context.Context, key string, value []byte) error {
	return c.redis.Set(ctx, key, value, 0).Err()
}

// SetMany implements Store.
func (c *Client) SetMany(ctx context.Context, keys []string, values [][]byte) error {
	_, err := c.bulk.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, k := range keys {
			p.Set(ctx, k, values[i], 0)
		}
		return nil
	})
	return err
}

// Get implements Store.
func (c *Client) Get(ctx context.Context, keys ...string) ([][]byte, error) {
	from := c.redis
	if len(keys) > 1 {
		from = c.bulk
	}
	answers, err := from.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, err
	}
	values := make([][]byte, len(answers))
	for i, a := range answers {
		if s, ok := a.(string); ok {
			values[i] = []byte(s)
		}
	}
	return values, nil
}

// Size implements Store.
func (c *Client) Size(ctx context.Context) (int, error) {
	n, err := c.bulk.DBSize(ctx).Result()
	return int(n), err
}

// Identity is what a Redis process says of itself. Both fields are made when it
// starts and kept nowhere but in its memory.
type Identity struct {
	// RunID is a random number.
	RunID string `json:"runID"`
	// Started is when the process started, by its own account, to the second.
	Started time.Time `json:"started"`
	// PID within the container.
	PID int `json:"pid"`
}

// Same says whether the other is the same process. The start is computed of
// two readings of the clock, so it may be off by one second.
func (i Identity) Same(other Identity) bool {
	return i.RunID == other.RunID && i.PID == other.PID && i.Started.Sub(other.Started).Abs() <= time.Second
}

// Identity asks the server who it is.
func (c *Client) Identity(ctx context.Context) (Identity, error) {
	info, err := c.bulk.Info(ctx, "server").Result()
	if err != nil {
		return Identity{}, fmt.Errorf("INFO: %w", err)
	}
	return parseIdentity(info)
}

func parseIdentity(info string) (Identity, error) {
	fields := map[string]string{}
	for lines := bufio.NewScanner(strings.NewReader(info)); lines.Scan(); {
		if name, v, ok := strings.Cut(strings.TrimSpace(lines.Text()), ":"); ok {
			fields[name] = v
		}
	}
	number := func(name string) (int64, error) {
		n, err := strconv.ParseInt(fields[name], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("INFO: %s: %w", name, err)
		}
		return n, nil
	}
	now, err := number("server_time_usec")
	if err != nil {
		return Identity{}, err
	}
	uptime, err := number("uptime_in_seconds")
	if err != nil {
		return Identity{}, err
	}
	pid, err := number("process_id")
	if err != nil {
		return Identity{}, err
	}
	id := Identity{RunID: fields["run_id"], PID: int(pid), Started: time.UnixMicro(now).Add(-time.Duration(uptime) * time.Second).Truncate(time.Second)}
	if id.RunID == "" {
		return id, fmt.Errorf("INFO: no run_id")
	}
	return id, nil
}
