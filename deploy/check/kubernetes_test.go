package check

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// One server, and three nodes of a cluster.
const oneServer, threeNodes = "deploy/kubernetes", "deploy/kubernetes/cluster"

// manifests are what a directory asks for.
type manifests struct {
	set      appsv1.StatefulSet
	services []corev1.Service
	budget   policyv1.PodDisruptionBudget
	network  networkingv1.NetworkPolicy
}

// readManifests decodes every document into its API type. A field that the type does not have,
// comes twice or has a wrong type fails the test.
func readManifests(t *testing.T, dir string) (m manifests) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal("no manifests: ", err)
	}
	for _, file := range files {
		text := read(t, strings.TrimPrefix(file, root+"/"))
		for doc := range strings.SplitSeq(string(text), "\n---\n") {
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			var into any
			switch kind.APIVersion + " " + kind.Kind {
			case "apps/v1 StatefulSet":
				into = &m.set
			case "v1 Service":
				m.services = append(m.services, corev1.Service{})
				into = &m.services[len(m.services)-1]
			case "policy/v1 PodDisruptionBudget":
				into = &m.budget
			case "networking.k8s.io/v1 NetworkPolicy":
				into = &m.network
			default:
				t.Fatalf("%s: no check for %+v: add its type here", file, kind)
			}
			if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	return m
}

// TestKubernetesManifestsFit: what one object says of another is true.
func TestKubernetesManifestsFit(t *testing.T) {
	for _, dir := range []string{oneServer, threeNodes} {
		t.Run(filepath.Base(dir), func(t *testing.T) { manifestsFit(t, readManifests(t, dir)) })
	}
}

func manifestsFit(t *testing.T, m manifests) {
	pod := m.set.Spec.Template
	if m.set.Name == "" || len(m.services) != 2 || m.budget.Name == "" || m.network.Name == "" {
		t.Fatal("an object is missing")
	}
	selects := func(who string, selector *metav1.LabelSelector) {
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil || s.Empty() || !s.Matches(labels.Set(pod.Labels)) {
			t.Errorf("%s does not select the pod: %v %v", who, s, err)
		}
	}
	selects("the StatefulSet", m.set.Spec.Selector)
	selects("the disruption budget", m.budget.Spec.Selector)
	selects("the network policy", &m.network.Spec.PodSelector)
	ports := map[string]bool{}
	c := pod.Spec.Containers[0]
	for _, p := range c.Ports {
		ports[p.Name] = true
	}
	named := func(who string, p intstr.IntOrString) {
		if !ports[p.StrVal] {
			t.Errorf("%s wants the port %q, which the pod does not have", who, p.String())
		}
	}
	headless := ""
	for _, s := range m.services {
		selects("the service "+s.Name, &metav1.LabelSelector{MatchLabels: s.Spec.Selector})
		for _, p := range s.Spec.Ports {
			named("the service "+s.Name, p.TargetPort)
		}
		if s.Spec.ClusterIP == corev1.ClusterIPNone {
			headless = s.Name
		}
	}
	if m.set.Spec.ServiceName != headless {
		t.Errorf("serviceName is %q, the headless service is %q", m.set.Spec.ServiceName, headless)
	}
	for _, in := range m.network.Spec.Ingress {
		for _, p := range in.Ports {
			named("the network policy", *p.Port)
		}
		for _, from := range in.From {
			if from.PodSelector != nil {
				selects("the network policy", from.PodSelector)
			}
		}
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil {
			t.Fatal("a probe is missing")
		}
		named("a probe", probe.HTTPGet.Port)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, v := range m.set.Spec.VolumeClaimTemplates {
		volumes[v.Name] = true
	}
	for _, v := range c.VolumeMounts {
		if !volumes[v.Name] {
			t.Errorf("the mount of %q has no volume", v.Name)
		}
	}
}

// TestKubernetesPodRuns: a pod that the restricted policy admits, with the time and the room to
// stop in order.
func TestKubernetesPodRuns(t *testing.T) {
	for _, dir := range []string{oneServer, threeNodes} {
		t.Run(filepath.Base(dir), func(t *testing.T) { podRuns(t, readManifests(t, dir)) })
	}
}

func podRuns(t *testing.T, m manifests) {
	spec := m.set.Spec.Template.Spec
	c := spec.Containers[0]
	if grace := *spec.TerminationGracePeriodSeconds; grace < 20 {
		t.Errorf("%d s to stop; draining alone may take 16", grace)
	}
	s := c.SecurityContext
	if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		!*spec.SecurityContext.RunAsNonRoot ||
		spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Error("the restricted pod security standard would refuse the pod")
	}
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	for _, p := range c.Ports {
		variable := map[string]string{
			"public": "ROLLCALL_LISTEN", "admin": "ROLLCALL_ADMIN_LISTEN", "nodes": "ROLLCALL_CLUSTER_LISTEN",
		}[p.Name]
		if want := intstr.FromInt32(p.ContainerPort); env[variable] != "0.0.0.0:"+want.String() {
			t.Errorf("%s is %q, the port %s is %d", variable, env[variable], p.Name, p.ContainerPort)
		}
	}
	if env["ROLLCALL_ADMIN_TOKEN_FILE"] == "" || env["ROLLCALL_ADMIN_OPEN"] != "" {
		t.Error("the admin port can be reached from outside the pod, and asks for no token")
	}
	for variable, mount := range map[string]string{
		"ROLLCALL_DATA_DIR": "data", "ROLLCALL_INGEST_TOKEN_FILE": "secrets", "ROLLCALL_SIGNING_KEY_FILE": "secrets",
		"ROLLCALL_ADMIN_TOKEN_FILE": "secrets",
	} {
		if !slices.ContainsFunc(c.VolumeMounts, func(v corev1.VolumeMount) bool {
			return v.Name == mount && strings.HasPrefix(env[variable], v.MountPath+"/")
		}) {
			t.Errorf("%s=%q is not in the volume %s", variable, env[variable], mount)
		}
	}
}

// TestKubernetesOneServer: more replicas would be separate servers.
func TestKubernetesOneServer(t *testing.T) {
	m := readManifests(t, oneServer)
	if *m.set.Spec.Replicas != 1 {
		t.Error("more than one replica, and no cluster")
	}
	for _, e := range m.set.Spec.Template.Spec.Containers[0].Env {
		if strings.HasPrefix(e.Name, "ROLLCALL_CLUSTER_") {
			t.Error(e.Name, "is for a node of a cluster")
		}
	}
}

// TestKubernetesCluster: the nodes can meet before one of them is ready, on machines of their own,
// and no more than one of them is taken away at a time.
func TestKubernetesCluster(t *testing.T) {
	m := readManifests(t, threeNodes)
	set, spec := m.set.Spec, m.set.Spec.Template.Spec
	if set.PodManagementPolicy != appsv1.ParallelPodManagement {
		t.Error("pods start one after the other: the first one waits for the others for ever")
	}
	if u := set.UpdateStrategy.RollingUpdate; u != nil && u.MaxUnavailable != nil {
		t.Error("an update takes more than one node away")
	}
	if set.MinReadySeconds < 10 {
		t.Error("an update goes on before the node caught up")
	}
	if *spec.TerminationGracePeriodSeconds < 45 {
		t.Error("less time than a drain may take, with the hand-over of the partitions")
	}
	away := spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if len(away) != 1 || away[0].TopologyKey != corev1.LabelHostname ||
		!selectsAll(away[0].LabelSelector) {
		t.Errorf("two nodes may share a machine: %v", away)
	}
	if b := m.budget.Spec; b.MaxUnavailable == nil || b.MaxUnavailable.IntValue() != 1 ||
		*b.UnhealthyPodEvictionPolicy != policyv1.IfHealthyBudget {
		t.Errorf("the budget does not keep a majority: %+v", b)
	}
	env := map[string]corev1.EnvVar{}
	for _, e := range spec.Containers[0].Env {
		env[e.Name] = e
	}
	if from := env["ROLLCALL_CLUSTER_NODE"].ValueFrom; from == nil || from.FieldRef.FieldPath != "metadata.name" {
		t.Error("the node's name is not the pod's, which goes with the volume")
	}
	if len(set.Selector.MatchLabels) < 2 {
		t.Error("a second set would be for the same pods")
	}
	if !selectsAll(m.budget.Spec.Selector) {
		t.Error("the budget leaves the nodes of a second set out")
	}
	for _, s := range m.services {
		if !selectsAll(&metav1.LabelSelector{MatchLabels: s.Spec.Selector}) {
			t.Errorf("the service %s leaves the nodes of a second set out", s.Name)
		}
	}
	if got := env["ROLLCALL_CLUSTER_BOOTSTRAP"].Value; got != strconv.Itoa(int(*set.Replicas)) {
		t.Errorf("the cluster is made of %s nodes, and there are %d", got, *set.Replicas)
	}
	if got := env["ROLLCALL_CLUSTER_PEERS"].Value; got != set.ServiceName {
		t.Errorf("the nodes look for %q, the headless service is %q", got, set.ServiceName)
	}
	for _, s := range m.services {
		if s.Name == set.ServiceName && !s.Spec.PublishNotReadyAddresses {
			t.Error("the nodes do not find each other before they are ready, which they are then")
		}
	}
	if !strings.HasPrefix(env["ROLLCALL_CLUSTER_KEY_FILE"].Value, "/etc/rollcall/") {
		t.Error("the nodes' key is not in the secret")
	}
	for _, direction := range [][]networkingv1.NetworkPolicyPort{inPorts(m), outPorts(m)} {
		if !slices.ContainsFunc(direction, func(p networkingv1.NetworkPolicyPort) bool {
			return p.Port.StrVal == "nodes"
		}) {
			t.Error("the network policy keeps the nodes from each other")
		}
	}
}

// selectsAll reports whether the nodes of a second set are selected, too.
func selectsAll(s *metav1.LabelSelector) bool {
	return len(s.MatchExpressions) == 0 && len(s.MatchLabels) == 1 &&
		s.MatchLabels["app.kubernetes.io/name"] == "rollcall-cluster"
}

func inPorts(m manifests) (ports []networkingv1.NetworkPolicyPort) {
	for _, in := range m.network.Spec.Ingress {
		ports = append(ports, in.Ports...)
	}
	return ports
}

func outPorts(m manifests) (ports []networkingv1.NetworkPolicyPort) {
	for _, out := range m.network.Spec.Egress {
		ports = append(ports, out.Ports...)
	}
	return ports
}
