// A program written with dokploy-sdk, which refuses answers that are not of the types it was generated with:
// node sdk.mjs VERB ARGUMENT. It prints one line of JSON.
import { Dokploy } from "dokploy-sdk";

const api = new Dokploy({
  serverURL: `${process.env.DOKPLOY_URL}/api`,
  apiKeyAuth: process.env.DOKPLOY_API_KEY,
});

const verbs = {
  async make(image) {
    const { project, environment } = await api.project.create({ name: "Generated" });
    const application = await api.application.create({ name: "web", environmentId: environment.environmentId });
    const { applicationId } = application;
    const answers = [
      await api.application.saveDockerProvider({ applicationId, dockerImage: image }),
      await api.application.saveEnvironment({ applicationId, env: "LEVEL=debug" }),
      await api.application.update({ applicationId, memoryLimit: "67108864", replicas: 1 }),
    ];
    await api.application.deploy({ applicationId, title: "Generated" });
    return { applicationId, projectId: project.projectId, answers };
  },
  async read(applicationId) {
    const application = await api.application.get({ applicationId });
    const deployments = await api.deployment.all({ applicationId });
    const projects = await api.project.getAll();
    const missing = await api.application.get({ applicationId: "nobody" }).catch((error) => error.statusCode);
    return {
      image: application.dockerImage,
      status: application.applicationStatus,
      deployments: deployments.map(({ title, status }) => ({ title, status })),
      projects: projects.map(({ name }) => name),
      missing,
    };
  },
};

const [verb, argument] = process.argv.slice(2);
console.log(JSON.stringify(await verbs[verb](argument)));
