// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/api/v1alpha1"
)

// A target that waits for images which its aborted source has removed stops
// waiting when it hears of the abort.
func TestReadingEndsWhenTheMigrationIsDecided(t *testing.T) {
	for name, decide := range map[string]func(t *testing.T, s *targetSession, m *v1alpha1.Migration){
		"aborted": func(t *testing.T, s *targetSession, m *v1alpha1.Migration) {
			m.Status.Handover = &v1alpha1.Handover{State: v1alpha1.HandoverAborted, By: "controller", Time: metav1.NowMicro()}
			must(t, s.Client.Status().Update(t.Context(), m))
		},
		"gone": func(t *testing.T, s *targetSession, m *v1alpha1.Migration) { must(t, s.Client.Delete(t.Context(), m)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m", UID: goneUID}}
			w := newWorld(t, m)
			s := &targetSession{sessionBase: sessionBase{
				Agent: w.Agent, uid: goneUID, key: types.NamespacedName{Namespace: "ns", Name: "m"}, session: &session{wake: make(chan struct{}, 1)},
			}}
			must(t, w.Client.Get(t.Context(), s.key, m))
			begun := make(chan struct{})
			go func() {
				<-begun
				s.wake <- struct{}{} // something else has changed
				decide(t, s, m)
				s.wake <- struct{}{}
			}()
			_, err := reading(t.Context(), s, time.Minute, "wait for what is gone", func(ctx context.Context) (int, error) {
				close(begun)
				<-ctx.Done()
				return 0, ctx.Err()
			})
			if !errors.Is(err, errDecided) {
				t.Errorf("the reading ended with %v", err)
			}
			if err := s.failReading(t.Context(), m, err); err != nil || s.report.State != "" {
				t.Errorf("it reports %q, %v", s.report.State, err)
			}
		})
	}
}
