// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers"
	"godwit.dev/godwit/internal/migration"
)

// How the manager's own pods are known: both ways of installing it label them so.
const (
	labelComponent   = "app.kubernetes.io/component"
	componentManager = "manager"
)

// Evictions answers evictions of pods by migration.JudgeEviction, and creates the
// Migrations that it asks for.
type Evictions struct {
	// Client reads from the cache, and creates Migrations.
	Client client.Client
	// Live reads from the API server what no cache is kept of.
	Live client.Reader
	// Clock tells the time.
	Clock clock.PassiveClock
	// Retries bound how often a pod is tried to be moved.
	Retries migration.Retries
	// Namespace that the manager runs in.
	Namespace string
}

// Handle implements admission.Handler.
func (e *Evictions) Handle(ctx context.Context, req admission.Request) admission.Response {
	log := ctrl.LoggerFrom(ctx).WithValues("pod", types.NamespacedName{Namespace: req.Namespace, Name: req.Name})
	verdict, err := e.judge(ctx, req)
	if err != nil {
		// An error would be taken for a final refusal, whatever the failure policy
		// says, and a drain would give up.
		log.Error(err, "cannot judge an eviction")
		return respond(migration.EvictionVerdict{Answer: migration.EvictionRetry, Message: "whether the pod is to be moved is not known yet: " + err.Error()})
	}
	log.V(1).Info("judged an eviction", "by", req.UserInfo.Username, "answer", verdict.Answer, "message", verdict.Message)
	return respond(verdict)
}

func (e *Evictions) judge(ctx context.Context, req admission.Request) (migration.EvictionVerdict, error) {
	eviction := &policyv1.Eviction{}
	if err := json.Unmarshal(req.Object.Raw, eviction); err != nil {
		return migration.EvictionVerdict{}, fmt.Errorf("read the eviction: %w", err)
	}
	facts, err := e.gather(ctx, req, eviction)
	if err != nil {
		return migration.EvictionVerdict{}, err
	}
	if e.ourselves(facts.Pod) {
		return e.judgeManager(ctx, facts)
	}
	verdict := migration.JudgeEviction(facts)
	if verdict.Create == nil {
		return verdict, nil
	}
	switch err := e.Client.Create(ctx, verdict.Create, client.FieldOwner(v1alpha1.FieldManagerController)); {
	case err == nil:
		ctrl.LoggerFrom(ctx).Info("an eviction has triggered an evacuation", "migration", client.ObjectKeyFromObject(verdict.Create), "by", req.UserInfo.Username)
	case apierrors.IsAlreadyExists(err):
		// By another eviction of the pod, which the cache has not seen yet.
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// Nothing can be created there any more, and the pod goes with the rest.
		return migration.EvictionVerdict{Answer: migration.EvictionAllowed}, nil
	default:
		return verdict, fmt.Errorf("create migration %s: %w", verdict.Create.Name, err)
	}
	return verdict, nil
}

func (e *Evictions) gather(ctx context.Context, req admission.Request, eviction *policyv1.Eviction) (migration.EvictionFacts, error) {
	facts := migration.EvictionFacts{Now: e.Clock.Now(), DryRun: dryRun(req, eviction), Retries: e.Retries}
	if o := eviction.DeleteOptions; o != nil && o.Preconditions != nil && o.Preconditions.UID != nil {
		facts.UID = *o.Preconditions.UID
	}
	pod := &corev1.Pod{}
	switch err := e.Client.Get(ctx, types.NamespacedName{Namespace: req.Namespace, Name: req.Name}, pod); {
	case apierrors.IsNotFound(err):
		// The API server says so itself, when it is so.
		return facts, nil
	case err != nil:
		return facts, fmt.Errorf("read the pod: %w", err)
	}
	facts.Pod = pod
	node, err := e.node(ctx, pod)
	if err != nil {
		return facts, err
	}
	return facts, controllers.Gather(ctx, e.Client, e.Live, node, &facts)
}

// ourselves says whether a pod is a replica of the manager.
func (e *Evictions) ourselves(pod *corev1.Pod) bool {
	return pod != nil && pod.Namespace == e.Namespace && pod.Labels[labelComponent] == componentManager
}

// judgeManager answers for a replica of the manager by what else is on its node.
func (e *Evictions) judgeManager(ctx context.Context, facts migration.EvictionFacts) (migration.EvictionVerdict, error) {
	elsewhere, err := e.elsewhere(ctx, facts.Pod)
	if err != nil || elsewhere {
		return migration.JudgeManager(facts.DryRun, elsewhere, nil), err
	}
	var pods corev1.PodList
	if err := e.Client.List(ctx, &pods, client.MatchingFields{controllers.IndexNode: facts.Pod.Spec.NodeName}); err != nil {
		return migration.EvictionVerdict{}, fmt.Errorf("list the node's pods: %w", err)
	}
	node, err := e.node(ctx, facts.Pod)
	if err != nil {
		return migration.EvictionVerdict{}, err
	}
	var others []migration.EvictionFacts
	for i := range pods.Items {
		if e.ourselves(&pods.Items[i]) {
			continue
		}
		f := migration.EvictionFacts{Now: facts.Now, Pod: &pods.Items[i], Retries: e.Retries}
		if err := controllers.Gather(ctx, e.Client, e.Live, node, &f); err != nil {
			return migration.EvictionVerdict{}, err
		}
		others = append(others, f)
	}
	return migration.JudgeManager(facts.DryRun, false, others), nil
}

// elsewhere says whether another replica is ready on a node that stays.
func (e *Evictions) elsewhere(ctx context.Context, pod *corev1.Pod) (bool, error) {
	var replicas corev1.PodList
	if err := e.Client.List(ctx, &replicas, client.InNamespace(e.Namespace), client.MatchingLabels{labelComponent: componentManager}); err != nil {
		return false, fmt.Errorf("list the manager's replicas: %w", err)
	}
	for i := range replicas.Items {
		other := &replicas.Items[i]
		if other.UID == pod.UID || other.DeletionTimestamp != nil || !ready(other) {
			continue
		}
		node, err := e.node(ctx, other)
		if err != nil {
			return false, err
		}
		if node != nil && !migration.Leaving(node) {
			return true, nil
		}
	}
	return false, nil
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// node is the pod's Node; nil when there is none.
func (e *Evictions) node(ctx context.Context, pod *corev1.Pod) (*corev1.Node, error) {
	node := &corev1.Node{}
	switch err := e.Client.Get(ctx, types.NamespacedName{Name: pod.Spec.NodeName}, node); {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read node %s: %w", pod.Spec.NodeName, err)
	}
	return node, nil
}

// dryRun says whether nothing may come of the eviction. “kubectl drain
// --dry-run=server” says so in the eviction's own options, which the API server
// does not copy into the admission request.
func dryRun(req admission.Request, eviction *policyv1.Eviction) bool {
	if req.DryRun != nil && *req.DryRun {
		return true
	}
	return eviction.DeleteOptions != nil && slices.Contains(eviction.DeleteOptions.DryRun, metav1.DryRunAll)
}

// respond makes an admission response of a verdict. A denial has no
// retryAfterSeconds: client-go would repeat the request ten times on its own, and
// whoever drains would see nothing of it.
func respond(v migration.EvictionVerdict) admission.Response {
	switch v.Answer {
	case migration.EvictionRetry:
		return denied(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, v.Message)
	case migration.EvictionGone:
		return denied(http.StatusNotFound, metav1.StatusReasonNotFound, v.Message)
	}
	r := admission.Allowed("")
	if v.Message != "" {
		r.Warnings = []string{v.Message}
	}
	return r
}

func denied(code int32, reason metav1.StatusReason, message string) admission.Response {
	r := admission.Denied(message)
	r.Result.Code, r.Result.Reason, r.Result.Message = code, reason, message
	return r
}
