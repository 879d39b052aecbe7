// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package timeserver tells the nodes the host's time. The downtime of a
// migration is the difference of two nodes' clocks, and an emulated machine's
// clock runs a little off; both nodes follow this server, one hop away. A stock
// NTP daemon would want to be the host's only one.
package timeserver

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"time"
)

const (
	// packetSize is the length of an NTP packet without extensions.
	packetSize = 48
	// clientMode and serverMode are values of the packet's mode field.
	clientMode = 3
	serverMode = 4
	// stratum says that the clock is not a reference one.
	stratum = 8
	// epochOffset is the number of seconds from NTP's epoch, 1900, to Unix's.
	epochOffset = 2208988800
)

// Serve answers NTP requests on conn until ctx ends.
func Serve(ctx context.Context, conn net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buffer := make([]byte, 512)
	for {
		n, peer, err := conn.ReadFrom(buffer)
		received := time.Now()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return ctx.Err()
			}
			return err
		}
		response, ok := answer(buffer[:n], received)
		if !ok {
			continue
		}
		putTime(response[40:], time.Now())
		// A peer that does not get its answer asks again.
		_, _ = conn.WriteTo(response, peer)
	}
}

// answer makes the response to a request, all but the time of its sending (the
// last field). It is false for what is not a client's request.
func answer(request []byte, received time.Time) ([]byte, bool) {
	if len(request) < packetSize || request[0]&7 != clientMode {
		return nil, false
	}
	response := make([]byte, packetSize)
	version := request[0] >> 3 & 7
	response[0] = version<<3 | serverMode
	response[1] = stratum
	response[2] = request[2]
	precision := int8(-20) // About a microsecond.
	response[3] = byte(precision)
	copy(response[12:16], []byte{127, 127, 1, 0})
	putTime(response[16:], received)
	copy(response[24:32], request[40:48])
	putTime(response[32:], received)
	return response, true
}

// putTime writes t as an NTP timestamp: seconds and their binary fraction.
func putTime(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+epochOffset))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}
