// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package timeserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"
)

// readTime reads an NTP timestamp.
func readTime(b []byte) time.Time {
	seconds := int64(binary.BigEndian.Uint32(b)) - epochOffset
	nanos := uint64(binary.BigEndian.Uint32(b[4:])) * 1e9 >> 32
	return time.Unix(seconds, int64(nanos))
}

func TestServeAnswersWithTheHostsTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, conn) }()

	client, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	request := make([]byte, packetSize)
	request[0] = 4<<3 | clientMode
	copy(request[40:], "transmit")
	before := time.Now()
	if _, err := client.Write(request); err != nil {
		t.Fatal(err)
	}
	response := make([]byte, 512)
	if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := client.Read(response)
	after := time.Now()
	if err != nil || n != packetSize {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if response[0] != 4<<3|serverMode || !bytes.Equal(response[24:32], []byte("transmit")) {
		t.Errorf("header %x, origin %q", response[0], response[24:32])
	}
	for _, at := range []int{32, 40} {
		// The fraction is rounded down to a quarter of a nanosecond.
		if got := readTime(response[at:]); got.Before(before.Add(-time.Microsecond)) || got.After(after) {
			t.Errorf("timestamp at %d is %v, not between %v and %v", at, got, before, after)
		}
	}
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve ended with %v", err)
	}
}

func TestAnswerIgnoresWhatIsNoRequest(t *testing.T) {
	for name, packet := range map[string][]byte{
		"short":    make([]byte, 10),
		"response": append([]byte{4<<3 | serverMode}, make([]byte, packetSize-1)...),
	} {
		if _, ok := answer(packet, time.Now()); ok {
			t.Errorf("%s: answered", name)
		}
	}
}
