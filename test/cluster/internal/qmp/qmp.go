// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package qmp gives orders to a running QEMU over its monitor protocol.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// Execute connects to the monitor's socket and runs one command that takes no
// arguments and returns nothing.
func Execute(ctx context.Context, socket, command string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	answers := json.NewDecoder(conn)
	var greeting struct {
		QMP json.RawMessage `json:"QMP"`
	}
	if err := answers.Decode(&greeting); err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	if greeting.QMP == nil {
		return errors.New("monitor: no greeting")
	}
	// The monitor stays deaf until its capabilities are negotiated.
	for _, c := range []string{"qmp_capabilities", command} {
		if err := json.NewEncoder(conn).Encode(map[string]string{"execute": c}); err != nil {
			return fmt.Errorf("monitor: %s: %w", c, err)
		}
		if err := answer(answers); err != nil {
			return fmt.Errorf("monitor: %s: %w", c, err)
		}
	}
	return nil
}

// answer reads until the answer to a command, past the events before it.
func answer(answers *json.Decoder) error {
	for {
		var message struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Class string `json:"class"`
				Desc  string `json:"desc"`
			} `json:"error"`
		}
		if err := answers.Decode(&message); err != nil {
			return err
		}
		if message.Error != nil {
			return fmt.Errorf("%s: %s", message.Error.Class, message.Error.Desc)
		}
		if message.Return != nil {
			return nil
		}
	}
}
