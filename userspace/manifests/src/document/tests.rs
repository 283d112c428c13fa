use super::*;

fn only(text: &str) -> Broken {
    let mut documents = documents("a.yaml", text);
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).content.unwrap_err()
}

#[test]
fn whose_a_broken_document_is_is_read_off_any_style() {
    for text in [
        "kind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec: {\n",
        "kind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {\n",
        "kind: AuthorizationPolicy # one\nmetadata: { labels: {a: b}, namespace: 'shop', name: \"p\" }\nspec: {\n",
        "{\"apiVersion\":\"v1\",\"kind\":\"AuthorizationPolicy\",\"metadata\":{\"name\":\"p\",\"namespace\":\"shop\"},\"spec\":",
        "- kind: AuthorizationPolicy\n  metadata: {namespace: shop, name: p}\n  spec: {\n",
    ] {
        let Broken { kinds, namespaces, names, .. } = only(text);
        let said = [kinds, namespaces, names].map(|words| words.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(said, ["AuthorizationPolicy", "shop", "p"], "{text}");
    }
}

#[test]
fn objects_in_json_may_follow_each_other() {
    let all = documents("a.json", " {\"a\": 1}\n{\"b\":\n2} {\"c\": 3, \"c\": 4}\n");
    let read: Vec<_> =
        all.iter().map(|one| (one.origin.line, one.content.as_ref().ok().map(Value::to_string))).collect();
    assert_eq!(read, [(1, Some("{\"a\":1}".into())), (2, Some("{\"b\":2}".into())), (3, None)]);
    // YAML that begins like JSON, and JSON that is cut off, are what they were.
    assert_eq!(documents("a.yaml", "{a: 1}\n").len(), 1);
    assert!(only("{\"a\": 1}\n{\"b\":").kinds.is_empty());
}

#[test]
fn a_carriage_return_ends_a_line_as_well() {
    let all = documents("a.yaml", "a: 1\r---\rb: 2\r\nc: 3\r");
    let read: Vec<_> = all.iter().map(|one| one.content.as_ref().unwrap().to_string()).collect();
    assert_eq!(read, ["{\"a\":1}", "{\"b\":2,\"c\":3}"]);
}

#[test]
fn a_long_list_is_read_and_one_without_end_is_said_in_words_of_the_trade() {
    let values = |number: usize| format!("kind: List\nitems: [{}]\n", "a,".repeat(number));
    assert!(documents("a.yaml", &values(300_000))[0].content.is_ok());
    assert_eq!(only(&values(1_000_000)).why, "more than 1000000 values: split it");
}

#[test]
fn what_is_wrong_is_said_with_the_lines_of_the_file_and_in_words_of_the_trade() {
    let text = "# a comment\n\n---\n# another\nkind: Pod\na: 1\na: 2\n";
    let Broken { line, why, .. } = only(text);
    assert_eq!((line, why.as_str()), (7, "duplicate mapping key: a at line 7, column 1"));
    let Broken { line, why, .. } = only("kind: Pod\n---\nkind: Pod\na: [\n".trim_start_matches("kind: Pod\n"));
    assert!(line > 1 && why.contains(&format!("line {line}")), "{line} {why}");
}
