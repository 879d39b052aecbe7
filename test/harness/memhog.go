// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const memhogPort = 8080

// MemhogPod describes a pod that runs the memory-dirtying test server; see
// test/workloads/memhog for its environment.
func (h *Harness) MemhogPod(namespace, name string, env ...string) *corev1.Pod {
	pod := Pod(namespace, name, h.Memhog, Env(env...)...)
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(memhogPort)}},
		PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 3,
	}
	return pod
}

// Memhog is a test server, wherever it runs now.
type Memhog struct {
	// Address is host and port.
	Address string
}

// MemhogAt is the test server in a pod.
func MemhogAt(pod *corev1.Pod) Memhog {
	return Memhog{Address: net.JoinHostPort(pod.Status.PodIP, fmt.Sprint(memhogPort))}
}

// MemhogStatus is what the server says of itself; see test/workloads/memhog.
type MemhogStatus struct {
	// BootID, StartTime and PID never change while the process lives.
	BootID    string    `json:"bootID"`
	StartTime time.Time `json:"startTime"`
	PID       int       `json:"pid"`
	// Counter only grows.
	Counter uint64 `json:"counter"`
	// LongestGap is the longest time in which the process did not run, by its
	// monotonic clock. CRIU lets that clock go on from where it stood at the dump.
	LongestGap time.Duration `json:"longestGapNanoseconds"`
	// LongestWallGap is the longest time in which the process did not run, by
	// the wall clocks of the nodes it was on.
	LongestWallGap time.Duration `json:"longestWallGapNanoseconds"`
	// ClockSteps counts how often the process saw its monotonic clock go
	// backwards, which no process ever should.
	ClockSteps uint64 `json:"clockSteps"`
}

// MemhogMemory is the result of looking at every page.
type MemhogMemory struct {
	Pages   uint64 `json:"pages"`
	Corrupt uint64 `json:"corrupt"`
	// Writes to pages since the start.
	Writes   uint64 `json:"writes"`
	Checksum string `json:"checksum"`
}

// How long a request may take, and one for which the server looks at all of its
// memory.
const (
	memhogTimeout = 30 * time.Second
	verifyTimeout = 3 * time.Minute
)

// one connection per request: a kept one would be cut by a migration.
var memhogHTTP = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (m Memhog) do(ctx context.Context, limit time.Duration, method, path string, into any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.Address+path, nil)
	if err != nil {
		return 0, err
	}
	res, err := memhogHTTP.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err
	}
	if into != nil {
		if err := json.Unmarshal(body, into); err != nil {
			return res.StatusCode, fmt.Errorf("%s %s: %w: %s", method, path, err, body)
		}
	}
	return res.StatusCode, nil
}

// answerInterval is how often AwaitAnswer tries.
const answerInterval = 100 * time.Millisecond

// AwaitAnswer returns what the server says of itself once it does: it has filled
// its memory then.
func (m Memhog) AwaitAnswer(ctx context.Context) (MemhogStatus, error) {
	ticker := time.NewTicker(answerInterval)
	defer ticker.Stop()
	for {
		s, err := m.Status(ctx)
		if err == nil {
			return s, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return s, fmt.Errorf("wait for the server at %s: %w", m.Address, errors.Join(context.Cause(ctx), err))
		}
	}
}

// Status asks who the process is and how it has been.
func (m Memhog) Status(ctx context.Context) (MemhogStatus, error) {
	var s MemhogStatus
	code, err := m.do(ctx, memhogTimeout, http.MethodGet, "/status", &s)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("GET /status: status %d", code)
	}
	return s, err
}

// Verify looks at every page; a page that is not what it has to be is an error.
func (m Memhog) Verify(ctx context.Context) (MemhogMemory, error) {
	var r MemhogMemory
	code, err := m.do(ctx, verifyTimeout, http.MethodGet, "/verify", &r)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%d of %d pages are corrupt", r.Corrupt, r.Pages)
	}
	return r, err
}

// Order sends a POST, such as "/gap/reset" or "/log?text=hello".
func (m Memhog) Order(ctx context.Context, path string) error {
	code, err := m.do(ctx, memhogTimeout, http.MethodPost, path, nil)
	if err == nil && code >= 300 {
		err = fmt.Errorf("POST %s: status %d", path, code)
	}
	return err
}
