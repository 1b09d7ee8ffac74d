"""Deploys deploy/aws/services.yaml with moto, and checks the tasks and the names that they use."""

import re
import unittest

import iam
from moto_server import client, deploy, moto, parse, read
from processes import ROOT

ROLE = "arn:aws:iam::123456789012:role/x"
# Seconds that a program takes at most to end: its drain delay, SHUTDOWN_GRACE, and the time after it.
DRAIN = {"order-api": 15}
GRACE = 20
AFTER_GRACE = 10
ADMIN_PORTS = {"order-api": 8083, "outbox-relay": 8081, "inventory-worker": 8082}
# Variables that the SDK of AWS and that of OpenTelemetry read.
FOREIGN = re.compile(r"AWS_|OTEL_")


def sources():
    """Returns the text of all source files of the programs."""
    folders = ("order-api", "outbox-relay", "outbox-admin", "inventory-worker", "shared")
    files = [file for folder in folders for file in (ROOT / folder / "src").rglob("*.rs")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    # String literals can be split over lines.
    return re.sub(r"\\\s*\n\s*", "", text)


def network(url):
    """Creates what services.yaml expects, and returns it as its parameters."""
    ec2 = client(url, "ec2", iam.REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=zone)["Subnet"]
        for n, zone in enumerate(("us-east-1a", "us-east-1b"))
    ]
    subnets = [subnet["SubnetId"] for subnet in subnets]
    group = ec2.create_security_group(GroupName="lb", Description="lb", VpcId=vpc)["GroupId"]
    lbs = client(url, "elbv2", iam.REGION)
    lb = lbs.create_load_balancer(Name="lb", Subnets=subnets)["LoadBalancers"][0]
    answer = {"StatusCode": "404", "ContentType": "text/plain"}
    listener = lbs.create_listener(
        LoadBalancerArn=lb["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": answer}],
    )["Listeners"][0]
    return {
        "VpcId": vpc,
        "SubnetIds": ",".join(subnets),
        "LoadBalancerSecurityGroup": group,
        "AdminSecurityGroup": group,
        "ListenerArn": listener["ListenerArn"],
    }


PARAMETERS = {
    "Image": "example.com/dynamodb-outbox:1",
    "ConsoleTokenArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:console",
    "OrderApiRoleArn": f"{ROLE}/order-api",
    "OutboxRelayRoleArn": f"{ROLE}/outbox-relay",
    "InventoryWorkerRoleArn": f"{ROLE}/inventory-worker",
    "ExecutionRoleArn": ROLE,
    "JwtIssuer": "https://issuer.example.com",
    "JwtAudience": "orders",
    "JwtKeys": "https://issuer.example.com/keys",
    "StreamsEndpoint": "https://vpce-1.streams.dynamodb.us-east-1.vpce.amazonaws.com",
    "OtlpEndpoint": "http://collector:4317",
    "TrustedProxies": "10.0.0.0/16",
}


def names_in(template):
    """Returns the names of all environment variables in a template."""
    found = set()

    def visit(node):
        if isinstance(node, dict):
            if set(node) in ({"Name", "Value"}, {"Name", "ValueFrom"}):
                found.add(node["Name"])
            node = list(node.values())
        if isinstance(node, list):
            for one in node:
                visit(one)

    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::ECS::TaskDefinition":
            visit(resource)
    return found


class ServicesTemplate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        url = cls.enterClassContext(moto())
        parameters = {**PARAMETERS, **network(url)}
        resources = deploy(url, iam.REGION, "services", read("services.yaml"), **parameters)
        ecs = client(url, "ecs", iam.REGION)
        cluster = resources["Cluster"]
        services = ecs.list_services(cluster=cluster)["serviceArns"]
        described = ecs.describe_services(cluster=cluster, services=services)["services"]
        cls.services, cls.tasks = {}, {}
        for service in described:
            task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])
            task = task["taskDefinition"]
            name = task["containerDefinitions"][0]["name"]
            cls.services[name] = service
            cls.tasks[name] = task
        cls.resources = resources

    def container(self, name):
        return self.tasks[name]["containerDefinitions"][0]

    def environment(self, name):
        # moto leaves a hole where AWS::NoValue was.
        variables = filter(None, self.container(name)["environment"])
        return {one["name"]: one["value"] for one in variables}

    def test_each_program_is_a_service_with_a_role_of_its_own(self):
        self.assertEqual(set(ADMIN_PORTS), set(self.services))
        # moto's CloudFormation ignores the role.
        roles = {
            one["Properties"]["ContainerDefinitions"][0]["Name"]: one["Properties"]["TaskRoleArn"]
            for one in parse(read("services.yaml"))["Resources"].values()
            if one["Type"] == "AWS::ECS::TaskDefinition"
        }
        for name in ADMIN_PORTS:
            role = name.title().replace("-", "") + "RoleArn"
            self.assertEqual({"Ref": role}, roles[name])
            self.assertEqual([name], self.container(name)["command"])
            self.assertEqual(2, self.services[name]["desiredCount"], name)

    def test_tasks_have_few_rights(self):
        for name in ADMIN_PORTS:
            container = self.container(name)
            self.assertTrue(container["readonlyRootFilesystem"], name)
            self.assertEqual("10001", container["user"])
            self.assertEqual(["ALL"], container["linuxParameters"]["capabilities"]["drop"])

    def test_tasks_have_the_time_to_stop(self):
        for name in ADMIN_PORTS:
            environment = self.environment(name)
            self.assertEqual(f"{GRACE}s", environment["SHUTDOWN_GRACE"])
            drain = int(environment.get("ORDER_API_DRAIN_DELAY", "0s").removesuffix("s"))
            self.assertEqual(DRAIN.get(name, 0), drain)
            self.assertLessEqual(drain + GRACE + AFTER_GRACE, self.container(name)["stopTimeout"])

    def test_health_checks_and_ports_are_those_of_the_programs(self):
        for name, port in ADMIN_PORTS.items():
            container = self.container(name)
            self.assertIn(f"http://127.0.0.1:{port}/healthz", container["healthCheck"]["command"])
            ports = {one["containerPort"] for one in container["portMappings"]}
            listening = re.findall(r"0\.0\.0\.0:(\d+)", " ".join(self.environment(name).values()))
            self.assertEqual(ports, set(map(int, listening)), name)
            self.assertIn(port, ports)

    def test_the_image_has_the_programs(self):
        dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        for name in ADMIN_PORTS:
            container = self.container(name)
            for program in (container["command"][0], container["healthCheck"]["command"][1]):
                self.assertRegex(dockerfile, rf"target/release/{program}\b")

    def test_variables_are_options_of_the_programs(self):
        self.assertEqual([], self.unknown(read("services.yaml"), sources()))
        planted = read("services.yaml").replace("WORKER_QUEUE", "WORKER_QUEUES")
        self.assertEqual(["WORKER_QUEUES"], self.unknown(planted, sources()))

    @staticmethod
    def unknown(template, text):
        names = sorted(names_in(parse(template)))
        return [one for one in names if not FOREIGN.match(one) and f'env = "{one}"' not in text]

    def test_workers_are_scaled_by_their_backlog(self):
        policy = parse(read("services.yaml"))["Resources"]["WorkerBacklog"]["Properties"]
        settings = policy["TargetTrackingScalingPolicyConfiguration"]
        metrics = settings["CustomizedMetricSpecification"]["Metrics"]
        self.assertEqual(["waiting", "tasks", "backlog"], [one["Id"] for one in metrics])


if __name__ == "__main__":
    unittest.main(verbosity=2)
